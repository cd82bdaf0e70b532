use std::process::Command;

use tempfile::TempDir;

use super::*;
use crate::builds::tree::Kind;

/// A repository with a work tree, made by real git.
pub(in crate::builds) struct WorkTree(TempDir);

impl WorkTree {
    pub(in crate::builds) fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        tree.git(&["init", "--quiet", "--initial-branch", "master"]);
        tree
    }

    pub(in crate::builds) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(in crate::builds) fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .arg("-C")
            .arg(self.path())
            .args(["-c", "user.name=Tests", "-c", "user.email=tests@example.com"])
            .args(arguments)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(in crate::builds) fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(in crate::builds) fn commit(&self) -> CommitId {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", "change"]);
        self.git(&["rev-parse", "HEAD"]).parse().unwrap()
    }
}

/// A mirror of a repository with an image for each service, and its commit.
pub(in crate::builds) fn mirror_of_images(services: &[&str], mirror: &Path) -> CommitId {
    let work = WorkTree::new();
    for service in services {
        work.write(&format!("{service}/Dockerfile"), "FROM scratch\nCOPY k8s.yaml /\n");
        let manifests = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {service}}}\ndata: {{image: \
             '{{{{image}}}}'}}\n"
        );
        work.write(&format!("{service}/k8s.yaml"), &manifests);
    }
    let commit = work.commit();
    work.git(&["clone", "--quiet", "--bare", ".", &mirror.to_string_lossy()]);
    commit
}

#[tokio::test]
async fn files_of_a_commit_are_listed_and_read() {
    let work = WorkTree::new();
    work.write("web/a", "first\n");
    work.write("web/empty", "");
    std::os::unix::fs::symlink("/etc/passwd", work.path().join("link")).unwrap();
    let commit = work.commit();
    work.write("web/a", "later\n");
    work.commit();
    let repository = Repository::discover(&work.path().join("web")).await.unwrap();
    assert_eq!(repository.resolve("HEAD^").await.unwrap(), commit);
    let tree = repository.tree(&commit).await.unwrap();
    let entries: Vec<(&[u8], Kind)> =
        tree.entries().map(|entry| (entry.path.as_slice(), entry.kind)).collect();
    assert_eq!(
        entries,
        [(&b"link"[..], Kind::Symlink), (b"web/a", Kind::File), (b"web/empty", Kind::File)]
    );
    let files: Vec<&Entry> = tree.entries().collect();
    let contents = repository.contents(&files).await.unwrap();
    assert_eq!(contents, [&b"/etc/passwd"[..], b"first\n", b""], "the link is not followed");
}

#[tokio::test]
async fn what_is_not_there_is_an_error_with_its_name() {
    let work = WorkTree::new();
    work.commit();
    let repository = Repository::discover(work.path()).await.unwrap();
    for revision in ["none", "--help", "$(touch x)", "HEAD:x", "", "-1", "HEAD\nHEAD"] {
        let error = repository.resolve(revision).await.unwrap_err();
        assert!(matches!(error, GitError::NoCommit(_)), "{revision:?}: {error}");
    }
    let absent: CommitId = "0".repeat(40).parse().unwrap();
    assert!(matches!(repository.tree(&absent).await, Err(GitError::NoCommit(_))));
    let folder = tempfile::tempdir().unwrap();
    let outside = Repository::discover(folder.path()).await.unwrap_err();
    assert!(outside.to_string().ends_with("is not in a git repository"), "{outside}");
    work.write("large", &"x".repeat(usize::try_from(MAX_BLOB).unwrap() + 1));
    let tree = repository.tree(&work.commit()).await.unwrap();
    let files: Vec<&Entry> = tree.entries().collect();
    let error = repository.contents(&files).await.unwrap_err();
    assert_eq!(error.to_string(), "large has more than 1048576 bytes");
}

/// The configuration of a repository, its hooks, and the branch that is checked out are others'
/// text: none of it runs.
#[tokio::test]
async fn nothing_of_a_repository_is_executed() {
    let work = WorkTree::new();
    let mark = work.path().join("executed");
    let script = work.path().join("run");
    let text = format!("#!/bin/sh\ntouch {}\n", mark.display());
    std::fs::write(&script, text).unwrap();
    Command::new("chmod").arg("+x").arg(&script).status().unwrap();
    let run = script.to_string_lossy();
    work.write(".gitattributes", "* filter=evil diff=evil\n");
    work.write("web/Dockerfile", "FROM scratch\n");
    let commit = work.commit();
    for hook in
        ["post-checkout", "post-index-change", "reference-transaction", "fsmonitor-watchman"]
    {
        std::fs::copy(&script, work.path().join(".git/hooks").join(hook)).unwrap();
    }
    for key in [
        "core.fsmonitor",
        "core.sshCommand",
        "core.pager",
        "core.editor",
        "core.gitProxy",
        "filter.evil.smudge",
        "filter.evil.process",
        "diff.evil.textconv",
        "diff.evil.command",
        "diff.external",
        "credential.helper",
        "alias.ls-tree",
        "alias.cat-file",
        "gpg.program",
        "core.alternateRefsCommand",
        "uploadpack.packObjectsHook",
    ] {
        work.git(&["config", key, &run]);
    }
    // A partial clone, from which an object is missing.
    work.git(&["config", "remote.origin.url", &format!("ext::{run}")]);
    work.git(&["config", "remote.origin.promisor", "true"]);
    work.git(&["config", "protocol.allow", "always"]);
    work.git(&["config", "extensions.partialClone", "origin"]);
    work.git(&["config", "core.repositoryFormatVersion", "1"]);
    let _ = std::fs::remove_file(&mark);
    let repository = Repository::discover(work.path()).await.unwrap();
    let found = repository.resolve("HEAD").await.unwrap();
    assert_eq!(found, commit);
    let tree = repository.tree(&commit).await.unwrap();
    let file = tree.get(&"web/Dockerfile".parse().unwrap()).unwrap();
    assert_eq!(repository.contents(&[file]).await.unwrap(), [b"FROM scratch\n"]);
    let (first, rest) = file.object.split_at(2);
    std::fs::remove_file(work.path().join(".git/objects").join(first).join(rest)).unwrap();
    assert!(repository.contents(&[file]).await.is_err());
    assert!(!mark.exists(), "git executed something of the repository");
}

#[tokio::test]
async fn a_file_is_fetched_and_archived_in_less_memory_than_it_has() {
    const FILE: usize = 48 << 20;
    let work = WorkTree::new();
    let mut random = vec![0; FILE];
    aws_lc_rs::rand::fill(&mut random).unwrap();
    std::fs::write(work.path().join("file"), random).unwrap();
    let commit = work.commit();
    work.git(&["repack", "-a", "-d", "--quiet"]);
    let repository = Repository::discover(work.path()).await.unwrap();
    let packs = std::fs::read_dir(work.path().join(".git/objects/pack")).unwrap();
    let mut packs = packs.map(|entry| entry.unwrap().path());
    let pack = packs.find(|path| path.extension().is_some_and(|it| it == "pack")).unwrap();
    // What `fetch` runs.
    let mut index = command();
    index.args(["index-pack", "--strict", "-o"]).arg(work.path().join("index")).arg(pack);
    for command in [index, repository.archive(&commit, [&RepositoryPath::root()])] {
        let mut bounded = bounded(FILE as u64 / 2);
        bounded.args(command.as_std().get_args());
        let bounds = Bounds { output: 2 * FILE, ..BOUNDS };
        process::run(bounded, b"", bounds).await.unwrap();
    }
}

#[tokio::test]
async fn git_fails_where_its_builder_would_be_killed_for_its_memory() {
    let work = WorkTree::new();
    let commit = work.commit();
    let text = work.git(&["cat-file", "commit", commit.as_str()]);
    // A commit is in memory as a whole, unlike a file.
    work.write("commit", &format!("{text}\n\n{}", "x".repeat(64 << 20)));
    let large = work.git(&["hash-object", "-t", "commit", "-w", "commit"]);
    let read = async |max| {
        let mut command = Repository::at(&work.path().join(".git"), max).command();
        command.args(["log", "-1", "--format=%H", &large]);
        process::run(command, b"", BOUNDS).await
    };
    assert_eq!(read(256 << 20).await.unwrap(), format!("{large}\n").as_bytes());
    let failed = read(32 << 20).await.unwrap_err();
    assert!(failed.to_string().contains("Out of memory"), "{failed}");
}
