use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use super::*;
use crate::model::NamespacedName;
use crate::problem::Problem;
use crate::resources::Resources;

/// How long a test waits for an expected update, which normally takes about 20 ms.
const TIMEOUT: Duration = Duration::from_secs(20);

struct Watched {
    folder: TempDir,
    updates: Receiver<(usize, Update)>,
    resources: Resources,
    problems: Vec<Problem>,
}

impl Watched {
    /// A source that has sent all of `files`, given as names and contents.
    async fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| write(folder.path(), name, text));
        Self::of(folder, "").await
    }

    async fn of(folder: TempDir, below: &str) -> Self {
        let (mut ends, updates) = Updates::channel(1);
        let secrets = Secrets {
            certificates: [NamespacedName::new("gateway", "wildcard")].into(),
            credentials: Some("gateway".into()),
        };
        let directory = Directory::new(folder.path().join(below), secrets);
        tokio::spawn(directory.run(ends.remove(0)));
        let mut watched =
            Self { folder, updates, resources: Resources::default(), problems: Vec::new() };
        assert!(watched.next().await.synced);
        watched
    }

    async fn next(&mut self) -> Update {
        let (_, update) = timeout(TIMEOUT, self.updates.recv())
            .await
            .expect("an update in time")
            .expect("the source runs");
        update.changes.iter().cloned().for_each(|change| drop(self.resources.apply(change)));
        self.problems = update.problems.clone().unwrap_or(std::mem::take(&mut self.problems));
        update
    }

    /// Waits until the Services are these.
    async fn until_services(&mut self, names: &[&str]) {
        while self.services() != names {
            self.next().await;
        }
    }

    fn services(&self) -> Vec<String> {
        self.resources.services().map(|service| service.origin.name.to_string()).collect()
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: \
         {{ports: [{{port: 80}}]}}\n---\n"
    )
}

#[tokio::test]
async fn created_changed_and_removed_files_are_picked_up() {
    let mut watched = Watched::new(&[("a.yaml", &service("a"))]).await;
    assert_eq!(watched.services(), ["a"]);
    write(watched.path(), "b.json", &service("b"));
    watched.until_services(&["a", "b"]).await;
    write(watched.path(), "a.yaml", &(service("a2") + &service("a3")));
    watched.until_services(&["a2", "a3", "b"]).await;
    fs::remove_file(watched.path().join("a.yaml")).unwrap();
    watched.until_services(&["b"]).await;
}

#[tokio::test]
async fn subfolders_are_read_and_hidden_and_other_files_are_not() {
    let files = [
        ("team/one/a.yml", &*service("a")),
        (".git/b.yaml", &service("b")),
        ("c.txt", "no: [manifest"),
        (".d.yaml.swp", "x: ["),
    ];
    let mut watched = Watched::new(&files).await;
    assert_eq!(watched.services(), ["a"]);
    write(watched.path(), "team/two/e.yaml", &service("e"));
    watched.until_services(&["a", "e"]).await;
    assert_eq!(watched.problems, []);
}

#[tokio::test]
async fn an_invalid_file_keeps_its_objects_and_the_error_has_its_location() {
    let mut watched =
        Watched::new(&[("a.yaml", &(service("a") + &service("b"))), ("c.yaml", &service("c"))])
            .await;
    write(watched.path(), "a.yaml", &format!("{}\nmetadata: [", service("a")));
    write(watched.path(), "d.yaml", &service("d"));
    watched.until_services(&["a", "b", "c", "d"]).await;
    while watched.problems.is_empty() {
        watched.next().await;
    }
    let location = watched.problems[0].origin.place.clone().unwrap();
    assert_eq!(
        (location.file.file_name().unwrap().to_str().unwrap(), location.line),
        ("a.yaml", 7)
    );
    write(watched.path(), "a.yaml", &service("a"));
    watched.until_services(&["a", "c", "d"]).await;
    assert_eq!(watched.problems, []);
}

#[tokio::test]
async fn an_invalid_object_keeps_its_last_valid_state() {
    let mut watched = Watched::new(&[("a.yaml", &(service("a") + &service("b")))]).await;
    write(watched.path(), "a.yaml", &(service("a").replace("80", "eighty") + &service("c")));
    watched.until_services(&["a", "c"]).await;
    assert_eq!(&*watched.problems[0].origin.name, "a");
}

#[tokio::test]
async fn a_duplicate_object_is_ignored_and_reported() {
    let watched = Watched::new(&[("a.yaml", &service("a")), ("b.yaml", &service("a"))]).await;
    assert_eq!(watched.services(), ["a"]);
    assert_eq!(watched.problems.len(), 1);
    assert!(
        watched.problems[0]
            .to_string()
            .contains("b.yaml:1:1: Service shop/a: it is already defined at "),
        "{:?}",
        watched.problems
    );
}

#[tokio::test]
async fn removing_the_first_definition_of_a_duplicate_activates_the_second() {
    let mut watched =
        Watched::new(&[("a.yaml", &service("a")), ("b.yaml", &service("a").replace("80", "81"))])
            .await;
    let port = |watched: &Watched| {
        watched.resources.services().map(|service| service.ports[0].port).collect::<Vec<_>>()
    };
    assert_eq!(port(&watched), [80]);
    fs::remove_file(watched.path().join("a.yaml")).unwrap();
    while port(&watched) != [81] {
        watched.next().await;
    }
    assert_eq!(watched.problems, []);
}

#[test]
fn a_scan_of_changed_paths_reads_no_other_files() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.yaml"), folder.path().join("b.yaml"));
    [&a, &b].into_iter().for_each(|file| fs::write(file, service("old")).unwrap());
    let mut scanned = Folder::new(vec![folder.path().to_owned()], Secrets::default());
    assert!(scanned.scan(None, SystemTime::now()).is_some());
    [(&a, "a"), (&b, "b")]
        .into_iter()
        .for_each(|(file, name)| fs::write(file, service(name)).unwrap());

    let mut resources = Resources::default();
    let mut scan = |paths: Option<BTreeSet<PathBuf>>| -> Vec<String> {
        let diff = scanned.scan(paths.as_ref(), SystemTime::now()).unwrap();
        diff.changes.into_iter().for_each(|change| drop(resources.apply(change)));
        resources.services().map(|service| service.origin.name.to_string()).collect()
    };
    assert_eq!(scan(Some(BTreeSet::from([a]))), ["a", "old"]);
    assert_eq!(scan(None), ["a", "b"]);
}

#[tokio::test]
async fn the_swap_of_a_mounted_configmap_is_picked_up() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "..1/a.yaml", &service("old"));
    write(folder.path(), "..2/a.yaml", &service("new"));
    symlink("..1", folder.path().join("..data")).unwrap();
    symlink("..data/a.yaml", folder.path().join("a.yaml")).unwrap();
    let mut watched = Watched::of(folder, "").await;
    assert_eq!(watched.services(), ["old"]);
    symlink("..2", watched.path().join("..data_tmp")).unwrap();
    fs::rename(watched.path().join("..data_tmp"), watched.path().join("..data")).unwrap();
    watched.until_services(&["new"]).await;
}

#[tokio::test]
async fn a_folder_that_is_replaced_or_removed_for_a_while_is_still_watched() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "one/a.yaml", &service("a"));
    write(folder.path(), "two/b.yaml", &service("b"));
    symlink("one", folder.path().join("now")).unwrap();
    let mut watched = Watched::of(folder, "now").await;
    symlink("two", watched.path().join("next")).unwrap();
    fs::rename(watched.path().join("next"), watched.path().join("now")).unwrap();
    watched.until_services(&["b"]).await;

    fs::remove_file(watched.path().join("now")).unwrap();
    while watched.problems.is_empty() {
        watched.next().await;
    }
    assert_eq!(watched.services(), ["b"], "the objects stay while the folder is missing");
    symlink("one", watched.path().join("now")).unwrap();
    watched.until_services(&["a"]).await;
    write(watched.path(), "one/c.yaml", &service("c"));
    watched.until_services(&["a", "c"]).await;
}

#[tokio::test]
async fn a_file_is_not_read_while_it_is_being_written() {
    use std::io::Write;
    let mut watched = Watched::new(&[("a.yaml", &(service("a") + &service("b")))]).await;
    let mut file = fs::File::create(watched.path().join("a.yaml")).unwrap();
    file.write_all(service("a").as_bytes()).unwrap();
    let early = timeout(Duration::from_millis(300), watched.next()).await;
    assert!(early.is_err(), "a half-written file was read: {early:?}");
    file.write_all(service("c").as_bytes()).unwrap();
    drop(file);
    watched.until_services(&["a", "c"]).await;
}

#[tokio::test]
async fn only_secrets_in_the_configuration_are_read() {
    let secret = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {{name: {name}, \
             namespace: gateway}}\nstringData: {{tls.crt: c, tls.key: k}}\n---\n"
        )
    };
    let settings = |name: &str| crate::settings::CertificateSettings::Secret {
        namespace: "gateway".to_owned(),
        name: name.to_owned(),
    };
    let mut watched = Watched::new(&[("a.yaml", &(secret("wildcard") + &secret("other")))]).await;
    assert!(watched.resources.certificate(&settings("wildcard")).is_some());
    assert!(watched.resources.certificate(&settings("other")).is_none());
    write(watched.path(), "a.yaml", &secret("other"));
    while watched.resources.certificate(&settings("wildcard")).is_some() {
        watched.next().await;
    }
}

fn client_key(name: &str) -> String {
    let hash = format!("sha256:{}", "0".repeat(64));
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: gateway, labels: \
         {{portcullis.dev/credential: client-key}}}}\nstringData: {{application: billing, hash: \
         \"{hash}\"}}\n---\n"
    )
}

#[tokio::test]
async fn an_invalid_credential_is_removed_and_the_others_stay() {
    let mut watched = Watched::new(&[
        ("a.yaml", &(client_key("a") + &client_key("b"))),
        ("c.yaml", &(client_key("c") + &service("c"))),
    ])
    .await;
    let names = |watched: &Watched| {
        watched.resources.credentials().map(|key| key.origin().name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&watched), ["a", "b", "c"]);
    write(watched.path(), "a.yaml", &(client_key("a").replace("sha256", "md5") + &client_key("b")));
    while names(&watched) != ["b", "c"] {
        watched.next().await;
    }
    assert_eq!(&*watched.problems[0].origin.name, "a");
    // In a file that cannot be parsed, the intended state of its credentials is unknown.
    write(watched.path(), "c.yaml", "metadata: [");
    while names(&watched) != ["b"] {
        watched.next().await;
    }
    assert_eq!(watched.services(), ["c"], "a Service keeps its last valid state");
}
