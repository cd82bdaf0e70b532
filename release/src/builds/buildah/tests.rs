//! Real buildah in real sandboxes, with what a repository could try.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::builds::base::NAME;
use crate::builds::git::tests::WorkTree;
use crate::builds::log::Mask;
use crate::builds::path::RepositoryPath;
use crate::registry::tests::Server;

const LIMITS: Limits =
    Limits { time: Duration::from_secs(60), memory: 1 << 30, disk: 256 << 20, processes: 100 };
const DOCKERFILE: &str = "FROM scratch\nCOPY busybox /bin/busybox\nCOPY script /script\n\
                          RUN [\"/bin/busybox\", \"sh\", \"/script\"]\n";

/// A repository with a target, and what its build left.
pub(super) struct Built {
    work: WorkTree,
    folder: TempDir,
    pub(super) outcome: Result<Upload, BuildError>,
    pub(super) log: String,
}

// === impl Built ===

impl Built {
    /// Builds an image by a shell script.
    async fn script(script: &str, limits: Limits) -> Self {
        let work = WorkTree::new();
        work.write("Dockerfile", DOCKERFILE);
        let install = "/bin/busybox --install -s /bin\n";
        work.write("script", &format!("{install}{script}\n"));
        Self::new(work, limits, None).await
    }

    async fn new(work: WorkTree, limits: Limits, base: Option<PathBuf>) -> Self {
        Self::with_mirrors(&[], work, limits, base).await
    }

    async fn with_mirrors(
        mirrors: &[&str],
        work: WorkTree,
        limits: Limits,
        base: Option<PathBuf>,
    ) -> Self {
        for path in ["/usr/bin/busybox", "/bin/busybox"] {
            if Path::new(path).exists() {
                std::fs::copy(path, work.path().join("busybox")).unwrap();
            }
        }
        let recipe = Recipe::Dockerfile("Dockerfile".parse().unwrap());
        Self::of(work, recipe, RepositoryPath::root(), mirrors, limits, base).await
    }

    /// Builds a target with this context.
    pub(super) async fn of(
        work: WorkTree,
        recipe: Recipe,
        context: RepositoryPath,
        mirrors: &[&str],
        limits: Limits,
        base: Option<PathBuf>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::discover(work.path()).await.unwrap();
        let target = Target {
            service: "web".parse().unwrap(),
            recipe,
            context,
            inputs: Vec::new(),
            manifests: Vec::new(),
        };
        let path = folder.path().join("log");
        let mut log = Log::open(&path, 1 << 20, Mask::default()).await.unwrap();
        let commit = work.commit();
        let source = Source {
            repository: &repository,
            url: "https://git.test/x",
            commit: &commit,
            target: &target,
        };
        let mirrors = mirrors.iter().map(|mirror| mirror.parse().unwrap()).collect();
        let outcome = Buildah { limits, mirrors, base, bazel: None, jobs: None }
            .build(&source, folder.path(), &mut log)
            .await;
        log.close().await;
        let log = String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
        Self { work, folder, outcome, log }
    }

    fn error(&self) -> String {
        match &self.outcome {
            Ok(_) => panic!("it was built: {}", self.log),
            Err(error) => error.to_string(),
        }
    }

    #[track_caller]
    pub(super) fn is_built(&self) {
        assert!(self.outcome.is_ok(), "{:?}: {}", self.outcome.as_ref().err(), self.log);
    }
}

/// The processes of this machine whose command has a text.
fn processes_with(text: &str) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        count += usize::from(String::from_utf8_lossy(&command).contains(text));
    }
    count
}

#[tokio::test]
async fn an_image_is_built_of_the_files_of_the_commit() {
    let work = WorkTree::new();
    work.write("Dockerfile", DOCKERFILE);
    work.write("script", "/bin/busybox cat /context.txt; /bin/busybox echo built > /file");
    work.write("context.txt", "$Format:%H$\n");
    work.write(".gitattributes", "context.txt export-subst\nscript export-ignore\n");
    work.write("Dockerfile", &DOCKERFILE.replace("RUN", "COPY context.txt /\nRUN"));
    // The mirror of a repository overrides its attributes.
    let info = work.path().join(".git/info/attributes");
    std::fs::write(info, "* -export-ignore -export-subst\n").unwrap();
    let built = Built::new(work, LIMITS, None).await;
    built.is_built();
    assert!(built.log.contains("$Format:%H$"), "{}", built.log);
    let image = built.outcome.as_ref().unwrap();
    assert!(image.blobs.iter().all(|blob| blob.path.starts_with(built.folder.path())));
    let manifest = String::from_utf8_lossy(&image.manifest);
    assert!(manifest.contains(&built.work.git(&["rev-parse", "HEAD"])), "{manifest}");
}

#[tokio::test]
async fn a_dockerfile_fetches_from_a_mirror_and_its_image_has_no_trace_of_the_proxy() {
    let mirror = TcpListener::bind("127.0.0.1:0").unwrap();
    mirror.set_nonblocking(true).unwrap();
    let host = mirror.local_addr().unwrap().to_string();
    let router = axum::Router::new().fallback(async || "mirrored");
    let mirror = tokio::net::TcpListener::from_std(mirror).unwrap();
    tokio::spawn(async move { axum::serve(mirror, router).await });
    let work = WorkTree::new();
    work.write("Dockerfile", DOCKERFILE);
    let script = format!(
        "/bin/busybox wget -O /package http://{host}/package && /bin/busybox cat /package; \
         /bin/busybox wget -O - http://evil.test/ || /bin/busybox echo refused"
    );
    work.write("script", &script);
    let built = Built::with_mirrors(&[&host], work, LIMITS, None).await;
    built.is_built();
    assert!(built.log.contains("mirrored") && built.log.contains("refused"), "{}", built.log);
    assert!(built.log.contains("--- mirrors: evil.test:80 is not one of"), "{}", built.log);
    let image = built.outcome.as_ref().unwrap();
    for blob in &image.blobs {
        let content = std::fs::read(&blob.path).unwrap();
        let text = String::from_utf8_lossy(&content).to_lowercase();
        // The configuration; the others are compressed.
        assert!(!text.starts_with('{') || !text.contains("proxy"), "{text}");
    }
    let is_configuration =
        |blob: &crate::registry::Blob| std::fs::read(&blob.path).unwrap().starts_with(b"{");
    assert_eq!(image.blobs.iter().filter(|blob| is_configuration(blob)).count(), 1);
}

/// Names the folder of authorities to the test that runs again, where the machine has an address that
/// is no loopback address, and no other network.
const AGAIN: &str = "PORTCULLIS_TEST_AUTHORITIES";
/// Starts it.
const IN_NAMESPACES: &str = "ip link set lo up && ip address add 192.0.2.10/32 dev lo && \
    mount --bind \"$0\" /etc/ssl/certs && mount --bind \"$0/hosts\" /etc/hosts && exec \"$@\"";
/// What its resolver knows.
const HOSTS: &str = "192.0.2.10 itself.test\n169.254.169.254 metadata.test\n";

#[tokio::test]
async fn an_image_starts_from_a_base_image_of_a_registry_that_is_a_mirror() {
    let Some(authorities) = std::env::var_os(AGAIN).map(PathBuf::from) else {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(folder.path().join("hosts"), HOSTS).unwrap();
        let again = Command::new("unshare")
            .args(["--net", "--mount", "sh", "-c", IN_NAMESPACES])
            .args([folder.path(), &std::env::current_exe().unwrap()])
            .arg("an_image_starts_from_a_base_image_of_a_registry_that_is_a_mirror")
            .env(AGAIN, folder.path())
            .output()
            .await
            .unwrap();
        let output = String::from_utf8_lossy(&again.stdout).into_owned();
        assert!(again.status.success() && output.contains("1 passed"), "{again:?}");
        return;
    };
    let base = Built::script("echo of the base > /x", LIMITS).await;
    base.is_built();
    let image = base.outcome.as_ref().unwrap();
    let mut objects: BTreeMap<String, Vec<u8>> = image
        .blobs
        .iter()
        .map(|blob| (format!("blobs/{}", blob.digest), std::fs::read(&blob.path).unwrap()))
        .collect();
    for reference in ["1", &image.digest] {
        objects.insert(format!("manifests/{reference}"), image.manifest.to_vec());
    }
    let router = axum::Router::new().fallback(async move |uri: http::Uri| {
        let found = uri.path().strip_prefix("/v2/base/").and_then(|path| objects.get(path));
        let kind = [(http::header::CONTENT_TYPE, crate::registry::OCI_IMAGE)];
        (kind, found.cloned().unwrap_or_else(|| b"{}".to_vec()))
    });
    let registry = Server::serve_at([192, 0, 2, 10].into(), router).await;
    let host = &registry.host;
    std::fs::copy(registry.certificate(), authorities.join("ca-certificates.crt")).unwrap();
    let itself = format!("itself.test:{}", host.split(':').next_back().unwrap());
    let build = async |mirrors: &[&str]| {
        let work = WorkTree::new();
        let dockerfile = format!(
            "FROM {host}/base:1\nADD https://{host}/v2/ /v2\nRUN cat /x /v2\n\
             RUN wget http://{itself}/ || wget http://metadata.test/ || echo refused\n"
        );
        work.write("Dockerfile", &dockerfile);
        Built::with_mirrors(mirrors, work, LIMITS, None).await
    };
    let built = build(&[host, &itself, "metadata.test:80"]).await;
    built.is_built();
    assert!(built.log.contains("of the base\n{}"), "{}", built.log);
    // Names lead neither to an address of the machine nor to that of metadata.
    for (name, address) in [(&*itself, "192.0.2.10"), ("metadata.test:80", "169.254.169.254")] {
        let note =
            format!("--- mirrors: {name} cannot be reached: its name has the address {address}");
        assert!(built.log.contains(&note), "{note}: {}", built.log);
    }
    assert!(built.log.contains("refused\n"), "{}", built.log);
    let other = build(&["192.0.2.10"]).await;
    assert!(other.error().contains("Forbidden"), "{}", other.error());
    assert!(other.log.contains(&format!("--- mirrors: {host} is not one of")), "{}", other.log);
    let none = build(&[]).await;
    assert!(none.error().contains("the build failed"), "{}", none.error());
}

#[tokio::test]
async fn an_image_starts_from_a_base_image_and_no_other() {
    let first = Built::script("echo x > /x", LIMITS).await;
    first.is_built();
    // A layout that each user can read.
    let base = tempfile::tempdir_in("/var/tmp").unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(base.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let image = first.outcome.as_ref().unwrap();
    let blobs = base.path().join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    for blob in &image.blobs {
        std::fs::copy(&blob.path, blobs.join(&blob.digest["sha256:".len()..])).unwrap();
    }
    std::fs::write(blobs.join(&image.digest["sha256:".len()..]), &image.manifest).unwrap();
    std::fs::write(base.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": crate::registry::OCI_IMAGE, "digest": image.digest,
            "size": image.manifest.len(), "annotations": { NAME: "docker.io/library/busybox:1.36" },
        }],
    });
    std::fs::write(base.path().join("index.json"), index.to_string()).unwrap();
    let from = async |name: &str| {
        let work = WorkTree::new();
        work.write("Dockerfile", &format!("FROM {name}\nRUN cat /x && id > /y\n"));
        Built::new(work, LIMITS, Some(base.path().to_owned())).await
    };
    from("docker.io/library/busybox:1.36").await.is_built();
    let other = from("docker.io/library/alpine:3").await;
    assert!(matches!(other.outcome, Err(BuildError::Failed(_))), "{}", other.log);
}

#[tokio::test]
async fn a_failed_build_says_why_in_its_log() {
    let built = Built::script("echo first; echo no such thing >&2; exit 3", LIMITS).await;
    assert!(matches!(built.outcome, Err(BuildError::Failed(_))));
    assert!(
        built.log.contains("first\n") && built.log.contains("no such thing\n"),
        "{}",
        built.log
    );
    let work = WorkTree::new();
    work.write("Dockerfile", "FROM scratch\nCOPY missing /\n");
    let built = Built::new(work, LIMITS, None).await;
    assert!(built.log.contains("missing"), "{}", built.log);
    assert!(built.error().starts_with("the build failed: "), "{}", built.error());
}

/// What belongs to the builder: files, its environment, its processes, other builds.
#[tokio::test]
async fn nothing_of_the_machine_is_in_reach() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "a-secret-of-the-builder").unwrap();
    let built = Built::script(
        &format!(
            "cat {path} /proc/*/root{path} /proc/*/cwd{path}\n\
             for it in /proc/[0-9]*; do cat $it/environ | tr '\\0' '\\n'; done\n\
             ls /proc/*/root/var/tmp /proc/*/root/root /proc/*/root/run /var/run /run\n\
             cat /etc/shadow /proc/*/root/etc/shadow /proc/kcore /proc/keys\n\
             cat /proc/*/mounts\n\
             echo users: $(cat /proc/self/uid_map)\n\
             echo processes: $(ls -d /proc/[0-9]* | wc -l)\n\
             ls -l /dev\n\
             mknod /disk b 254 0 && echo made a device\n\
             mkdir /m; mount -t proc proc /m && echo mounted\n\
             unshare -Ur true && echo unshared\n\
             nsenter -t 1 -m true && echo entered\n\
             echo 1 > /proc/sys/kernel/sysrq && echo a setting\n\
             echo x > /proc/sysrq-trigger && echo a key\n\
             echo 9 > /proc/sys/user/max_user_namespaces && echo a limit\n\
             exit 0",
            path = token.display()
        ),
        LIMITS,
    )
    .await;
    built.is_built();
    let log = &built.log;
    assert!(!log.contains("a-secret-of-the-builder"), "{log}");
    // The environment of this test has it.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some() && !log.contains("CARGO_"), "{log}");
    assert!(!log.contains("root:$") && !log.contains("root:*"), "{log}");
    for word in ["made a device", "mounted", "unshared", "entered", "a setting", "a key", "a limit"]
    {
        assert!(!log.lines().any(|line| line == word), "{word}: {log}");
    }
    // Of the machine, its programs alone are there, and cannot be changed.
    let is_of_disk = |line: &&str| line.starts_with("/dev/");
    for line in log.lines().filter(is_of_disk) {
        let mut words = line.split(' ').skip(1);
        let (place, options) = (words.next().unwrap(), words.nth(1).unwrap());
        let is_program = ["/usr", "/bin", "/sbin", "/lib", "/etc/alternatives"]
            .iter()
            .any(|it| place.starts_with(it));
        assert!(is_program && options.starts_with("ro,"), "{line}");
    }
    let count = |name: &str| {
        log.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
    };
    assert!(count("processes: ").parse::<u32>().unwrap() < 15, "{log}");
    let first: u32 = count("users: ").split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(first >= 65_536, "{log}");
}

#[tokio::test]
async fn there_is_no_network_and_no_socket_of_the_machine() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let name = SocketAddr::from_abstract_name(format!("portcullis-test-{port}")).unwrap();
    let socket = UnixListener::bind_addr(&name).unwrap();
    socket.set_nonblocking(true).unwrap();
    let built = Built::script(
        &format!(
            "ifconfig lo up 127.0.0.1\n\
             wget -T 2 -O - http://127.0.0.1:{port}/ && echo reached\n\
             wget -T 2 -O - http://169.254.169.254/latest/meta-data/ && echo reached\n\
             nc -w 2 1.1.1.1 53 < /dev/null && echo reached\n\
             nslookup example.com && echo reached\n\
             cat /proc/net/unix; cat /proc/net/route\n\
             exit 0"
        ),
        LIMITS,
    )
    .await;
    built.is_built();
    assert!(!built.log.lines().any(|line| line == "reached"), "{}", built.log);
    assert!(!built.log.contains("portcullis-test"), "{}", built.log);
    assert!(listener.accept().is_err() && socket.accept().is_err());
}

#[tokio::test]
async fn links_lead_nowhere() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "a-secret-of-the-builder").unwrap();
    let work = WorkTree::new();
    std::os::unix::fs::symlink(secret.path(), work.path().join("file")).unwrap();
    std::os::unix::fs::symlink("/", work.path().join("root")).unwrap();
    work.write("script", "");
    work.write(
        "Dockerfile",
        &format!("{DOCKERFILE}COPY file /a\nCOPY root{} /b\n", secret.path().display()),
    );
    let built = Built::new(work, LIMITS, None).await;
    assert!(matches!(built.outcome, Err(BuildError::Failed(_))), "{}", built.log);
    // A Dockerfile that is one is that of the sandbox, if there is one.
    let work = WorkTree::new();
    std::os::unix::fs::symlink("/etc/shadow", work.path().join("Dockerfile")).unwrap();
    let built = Built::new(work, LIMITS, None).await;
    assert!(!built.log.contains("root:"), "{}", built.log);
    assert!(matches!(built.outcome, Err(BuildError::Failed(_))), "{}", built.log);
}

#[tokio::test]
async fn a_build_that_hangs_is_stopped_with_all_it_started() {
    let started = Instant::now();
    let limits = Limits { time: Duration::from_secs(4), ..LIMITS };
    let script = "(trap '' TERM HUP INT; setsid sleep 98765) & sleep 98765";
    let built = Built::script(script, limits).await;
    assert_eq!(built.error(), "the build took longer than 4 s, and was stopped");
    assert!(started.elapsed() < Duration::from_secs(30));
    let ended = async {
        while processes_with("98765") > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("its processes end");
}

#[tokio::test]
async fn a_build_whose_builder_does_not_wait_ends() {
    let limits = Limits { time: Duration::from_secs(50), ..LIMITS };
    let building = Built::script("sleep 87654", limits);
    let started = async {
        while processes_with("87654") == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        built = building => panic!("it ended: {}", built.log),
        () = started => {}
    }
    let ended = async {
        while processes_with("87654") > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("its processes end");
}

#[tokio::test]
async fn a_greedy_build_is_stopped_by_its_limits() {
    // Processes: by the kernel, for all users of the build together.
    let script = "for user in 0 1 2 3; do for it in $(seq 60); do \
                  setpriv --reuid $user sleep 5 2> /dev/null & sleep 5 & done; done\n\
                  echo now: $(ls -d /proc/[0-9]* | wc -l); exit 1";
    let built = Built::script(script, LIMITS).await;
    assert!(built.log.contains("can't fork"), "{}", built.log);
    assert!(matches!(built.outcome, Err(BuildError::Failed(_))));
    // A bomb ends at the latest with its time.
    let limits = Limits { time: Duration::from_secs(5), ..LIMITS };
    let built = Built::script("bomb() { bomb | bomb & }; bomb; sleep 77777", limits).await;
    assert!(matches!(built.outcome, Err(BuildError::Failed(_))), "{}", built.log);
    // Memory of one process: by the kernel; of many: by the builder.
    let limits = Limits { memory: 200 << 20, ..LIMITS };
    let one =
        Built::script("head -c 400000000 /dev/zero | tail -c 399999999 | wc -c", limits.clone());
    let built = one.await;
    assert!(built.log.contains("out of memory"), "{}", built.log);
    let many = "for it in 1 2 3 4 5; do (x=$(head -c 60000000 /dev/zero | tr '\\0' x); sleep 20) & \
                done; wait";
    let built = Built::script(many, limits).await;
    assert_eq!(built.error(), "the build used more than 200 MiB of memory, and was stopped");
    // Files: by the size of their file system.
    let limits = Limits { disk: 32 << 20, ..LIMITS };
    let built = Built::script("cat /dev/zero > /large || exit 4", limits).await;
    assert!(built.log.contains("No space left on device"), "{}", built.log);
    assert!(matches!(built.outcome, Err(BuildError::Failed(_))));
    // What it prints: cut off.
    let built = Built::script("yes | head -c 5000000", LIMITS).await;
    built.is_built();
    assert!(built.log.len() < (1 << 20) + 1000, "{}", built.log.len());
    assert!(built.log.ends_with("the rest is left out\n"));
}
