//! Commands in real sandboxes, with what a repository could try.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::tests::Built;
use super::*;
use crate::builds::git::tests::WorkTree;

const LIMITS: Limits =
    Limits { time: Duration::from_secs(60), memory: 1 << 30, disk: 256 << 20, processes: 100 };
/// Writes a layout.
const LAYOUT: &str = include_str!("../../../testdata/workspace/layout.sh");

/// Runs a command in the folder `web` of a repository, of which `web/out` is read.
async fn build(command: &[&str], limits: Limits) -> Built {
    build_with_mirrors(&[], command, limits).await
}

/// The same, with mirrors.
async fn build_with_mirrors(mirrors: &[&str], command: &[&str], limits: Limits) -> Built {
    let work = WorkTree::new();
    work.write("web/layout.sh", LAYOUT);
    work.write("web/file", "content\n");
    let recipe = Recipe::Command {
        command: command.iter().copied().map(str::to_owned).collect(),
        output: "web/out".parse().unwrap(),
    };
    Built::of(work, recipe, "web".parse().unwrap(), mirrors, limits, None).await
}

async fn build_script(script: &str) -> Built {
    build(&["sh", "-c", script], LIMITS).await
}

/// What was wrong, with the log.
fn error(built: &Built) -> String {
    match &built.outcome {
        Ok(_) => panic!("it was built: {}", built.log),
        Err(error) => format!("{error}\n{}", built.log),
    }
}

#[tokio::test]
async fn a_layout_that_a_command_leaves_is_the_image() {
    let folder = build(&["sh", "layout.sh", "out", "file"], LIMITS).await;
    folder.is_built();
    let archive = "sh layout.sh made file && tar -C made -czf out . && rm -r made";
    let archive = build_script(archive).await;
    archive.is_built();
    let [folder, archive] = [&folder, &archive].map(|it| &it.outcome.as_ref().unwrap().blobs);
    let digests = |blobs: &[crate::registry::Blob]| -> Vec<String> {
        blobs.iter().map(|blob| blob.digest.clone()).collect()
    };
    assert_eq!(digests(folder), digests(archive));
    // An archive as `docker save` writes it.
    let docker = r#"
        tar -cf layer.tar file
        digest=$(sha256sum layer.tar | cut -d ' ' -f 1)
        echo "{\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:$digest\"]}}" > c.json
        echo '[{"Config":"c.json","RepoTags":["x:1"],"Layers":["layer.tar"]}]' > manifest.json
        tar -cf out manifest.json c.json layer.tar"#;
    build_script(docker).await.is_built();
}

#[tokio::test]
async fn no_shell_reads_a_command() {
    let arguments = ["printf", "%s\\n", "$HOME", "`id`", "; exit 3", "*", "a  b", "--", "-n"];
    let built = build(&arguments, LIMITS).await;
    assert!(built.log.contains("$HOME\n`id`\n; exit 3\n*\na  b\n--\n-n\n"), "{}", built.log);
    assert!(error(&built).contains("the build left no web/out"), "{}", error(&built));
    for word in ["exit", "cd", "leave", "-n", "A=b", "no such program"] {
        let built = build(&[word], LIMITS).await;
        let missing = format!("{word}\u{2019}: No such file or directory");
        assert!(error(&built).contains(&missing), "{}", error(&built));
    }
    // It has no input, and no descriptor beside its log.
    let built = build_script("cat; ls /proc/$$/fd | tr '\\n' ' '; exit 1").await;
    assert!(built.log.contains("0 1 2 "), "{}", built.log);
}

#[tokio::test]
async fn what_is_no_layout_is_rejected_with_a_reason() {
    let good = "sh layout.sh out file";
    for (script, expected) in [
        ("true".to_owned(), "the build failed: the build left no web/out"),
        (format!("{good}; exit 3"), "the build failed: "),
        ("mkdir out".to_owned(), "web/out is not an OCI layout: it has no oci-layout"),
        (format!("{good}; rm -r out/blobs"), "it has no blobs"),
        ("echo text > out".to_owned(), "web/out is neither a folder nor an archive"),
        ("mkdir x; tar -C x -cf out .".to_owned(), "it has no oci-layout"),
        // Links, out of the context and inside of it.
        ("ln -s /etc out".to_owned(), "web/out is behind a symbolic link"),
        (format!("{good}; mv out x; ln -s x out"), "web/out is behind a symbolic link"),
        (format!("{good}; mv out/index.json .; ln -s ../index.json out"), "is a symbolic link"),
        (format!("{good}; mv out/blobs x; ln -s /work/web/x out/blobs"), "is a symbolic link"),
        (format!("{good}; ln -s /etc/passwd out/blobs/sha256/x"), "\"blobs/sha256/x\" is a symbolic link"),
        (format!("{good}; mkfifo out/blobs/x"), "\"blobs/x\" is a named pipe"),
        (format!("{good}; mknod out/blobs/x b 8 0; exit 7"), "Operation not permitted"),
        (format!("{good}; echo x > out/blobs/x"), "a layout has no file \"blobs/x\""),
        (format!("{good}; for it in out/blobs/sha256/*; do echo x >> $it; done"), "has another digest"),
        (
            format!("{good}; touch out/blobs/sha256/$(printf %0200d 1)"),
            "is a name or link that is too long",
        ),
        // An archive that writes elsewhere does so in the sandbox.
        (
            "mkdir a; ln -s / a/root; tar -C a -cf out .; mkdir -p b/root/etc; echo x > b/root/etc/x; \
             tar -C b -rf out ./root/etc/x"
                .to_owned(),
            "the build failed: ",
        ),
        (format!("{good}; head -c 2000000 /dev/zero > out/index.json"), "no file \"index.json\" of this size"),
        (
            format!("{good}; (printf '{{\"x\":'; printf '%0500000d' 0 | tr 0 '[') > out/index.json"),
            "its index: EOF while parsing a list",
        ),
        (format!("{good}; sed -i 's/\\[\\(.*\\)\\]/[\\1,\\1]/' out/index.json"), "it has 2 images: leave the one"),
        (format!("{good}; sed -i 's/manifest.v1/index.v1/' out/index.json"), "it is an index of images"),
        (format!("{good}; sed -i 's/\\[.*\\]/[]/' out/index.json"), "it has no image"),
    ] {
        let built = build_script(&script).await;
        assert!(error(&built).contains(expected), "{script}: {expected}: {}", error(&built));
    }
    let limits = Limits { disk: 24 << 20, ..LIMITS };
    let large = "sh layout.sh out file; head -c 13000000 /dev/zero > out/blobs/x; \
                 ln out/blobs/x out/blobs/y; ln out/blobs/x out/blobs/z";
    let built = build(&["sh", "-c", large], limits).await;
    assert!(error(&built).contains("a layout has no file \"blobs/"), "{}", error(&built));
}

#[tokio::test]
async fn a_hostile_command_gets_at_nothing_and_ends() {
    let script = r#"
        cat /proc/1/environ /proc/*/environ | tr '\0' '\n'
        cat /etc/shadow /root/.ssh/* /proc/1/root/etc/shadow
        (echo > /usr/bin/x) && echo wrote
        (exec 3<> /dev/tcp/169.254.169.254/80) && echo reached
        (exec 3<> /dev/tcp/127.0.0.1/3128) && echo proxied
        env | grep -i proxy && echo proxied
        ls /etc/ssl && echo trusted
        ls /sys/class/net
        mount -t tmpfs tmpfs /work && echo mounted
        mount -o remount,bind,rw /usr && echo mounted
        unshare -r true && echo unshared
        unshare -U true && echo unshared
        echo 9 > /proc/sys/user/max_user_namespaces && echo limited
        readlink /proc/1/fd/* && echo listed
        grep CapEff /proc/self/status
        echo '{}' > /proc/1/fd/3 && echo inserted
        (setsid sleep 65432 &)
        exit 1"#;
    let built = build(&["bash", "-c", script], LIMITS).await;
    let log = error(&built);
    assert!(!log.contains("CARGO_") && !log.contains("root:$") && !log.contains("root:*"), "{log}");
    assert!(log.contains("CapEff:\t00000000000400fb"), "as few as RUN has: {log}");
    for word in [
        "wrote", "reached", "proxied", "trusted", "mounted", "unshared", "limited", "listed",
        "inserted",
    ] {
        assert!(!log.lines().any(|line| line == word), "{word}: {log}");
    }
    let limits = || Limits { time: Duration::from_secs(5), ..LIMITS };
    let late = build(&["sleep", "65432"], limits()).await;
    assert!(error(&late).starts_with("the build took longer than 5 s"), "{}", error(&late));
    let forks = build(&["bash", "-c", "f() { f | f & }; f; sleep 65432"], limits()).await;
    assert!(matches!(forks.outcome, Err(BuildError::Failed(_))), "{}", error(&forks));
    let printed = build_script("yes | head -c 5000000; exit 1").await;
    assert!(printed.log.len() < (1 << 20) + 1000, "{}", printed.log.len());
    let mut left = std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        command.starts_with(b"sleep\x0065432")
    });
    assert!(left.next().is_none(), "its processes end");
}

/// A host of this machine that answers every request with its path, and counts the connections that
/// are open.
async fn mirror() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let open = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&open);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let open = Arc::clone(&counted);
            tokio::spawn(async move {
                open.fetch_add(1, Ordering::SeqCst);
                let mut part = vec![0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut part).await {
                    let head = String::from_utf8_lossy(&part[..count]);
                    let path = head.split(' ').nth(1).unwrap_or_default();
                    let body = format!("mirrored {path}\n");
                    let length = body.len();
                    let answer =
                        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
                open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (host, open)
}

#[tokio::test]
async fn a_build_reaches_the_mirrors_and_nothing_else() {
    let ((host, _), (other, _)) = (mirror().await, mirror().await);
    let script = r#"
        through() { # TARGET [HOST]
            exec 3<> /dev/tcp/127.0.0.1/3128
            printf 'GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$1" "${2:-x}" >&3
            echo "$1: $(cat <&3 | tr -d '\r' | tr '\n' ' ')"
        }
        tunnel() {
            exec 3<> /dev/tcp/127.0.0.1/3128
            printf 'CONNECT %s HTTP/1.1\r\n\r\n' "$1" >&3
            read -r line <&3
            echo "tunnel $1: $line"
        }
        env | grep -i proxy | sort
        through "http://$HOST/file"
        through "http://$OTHER/" "$HOST"
        tunnel "$HOST"; tunnel "$OTHER"; tunnel 169.254.169.254:80; tunnel 127.0.0.1:3128
        tunnel "localhost:${HOST#*:}"; tunnel "[::1]:${HOST#*:}"
        for direct in "${HOST%:*}/${HOST#*:}" 169.254.169.254/80 192.0.2.1/80; do
            (exec 3<> "/dev/tcp/$direct") && echo reached
        done
        echo "interfaces: $(ls /sys/class/net)"
        echo routes: $(tail -n +2 /proc/net/route)
        cat /etc/ssl/certs/ca-certificates.crt | grep -c BEGIN | sed 's/^/authorities: /'
        (echo > /etc/ssl/certs/x) && echo wrote
        sh layout.sh out file"#;
    let script = format!("HOST={host} OTHER={other}\n{script}");
    let built = build_with_mirrors(&[&host], &["bash", "-c", &script], LIMITS).await;
    built.is_built();
    let log = &built.log;
    let proxy = "http://127.0.0.1:3128";
    for line in [
        &format!("http_proxy={proxy}"),
        &format!("HTTPS_PROXY={proxy}"),
        "no_proxy=localhost,127.0.0.1,::1",
        &format!("tunnel {host}: HTTP/1.1 200 OK\r"),
        &format!("tunnel {other}: HTTP/1.1 403 Forbidden\r"),
        "tunnel 169.254.169.254:80: HTTP/1.1 403 Forbidden\r",
        "tunnel 127.0.0.1:3128: HTTP/1.1 403 Forbidden\r",
        "interfaces: lo",
        "routes:",
    ] {
        assert!(log.lines().chain(log.split('\n')).any(|it| it == line), "{line}: {log}");
    }
    assert!(log.contains(&format!("http://{host}/file: HTTP/1.1 200 OK")), "{log}");
    assert!(log.contains("mirrored /file"), "{log}");
    assert!(log.contains(&format!("http://{other}/: HTTP/1.1 403")), "{log}");
    assert_eq!(log.matches("HTTP/1.1 403").count(), 6, "{log}");
    assert!(!log.contains("reached") && !log.contains("wrote"), "{log}");
    let note = format!("--- mirrors: {other} is not one of `builds.mirrors`");
    assert_eq!(log.matches(&note).count(), 1, "{log}");
    if Path::new("/etc/ssl/certs/ca-certificates.crt").exists() {
        assert!(log.contains("authorities: ") && !log.contains("authorities: 0"), "{log}");
    }
}

#[tokio::test]
async fn what_a_build_leaves_open_to_a_mirror_ends_with_it() {
    let (host, open) = mirror().await;
    // Thirty processes of their own, each with a tunnel, of which nothing is read.
    let script = format!(
        "for it in $(seq 30); do setsid bash -c 'exec 3<> /dev/tcp/127.0.0.1/3128; \
         printf \"CONNECT {host} HTTP/1.1\\r\\n\\r\\n\" >&3; read -r line <&3; sleep 65433' & done; \
         sleep 2; exit 1"
    );
    let (mirrors, command) = ([host.as_str()], ["bash", "-c", script.as_str()]);
    let building = build_with_mirrors(&mirrors, &command, LIMITS);
    let counted = async {
        while open.load(Ordering::SeqCst) < 30 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (built, ()) = tokio::join!(building, counted);
    assert!(matches!(built.outcome, Err(BuildError::Failed(_))), "{}", built.log);
    let closed = async {
        while open.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), closed).await.expect("its tunnels end");
}
