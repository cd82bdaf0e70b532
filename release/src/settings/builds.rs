//! Repositories that are followed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Toleration;
use portcullis_config::model::{check_label, duration};
use serde::{Deserialize, Deserializer, de};

use super::{RegistrySettings, SERVICE, repeated};
use crate::model::{Branch, EnvironmentName, GitUrl, MirrorHost, RepositoryName, Transport};

/// The most repositories.
const MAX_REPOSITORIES: usize = 200;
/// The longest query of Bazel, in bytes.
const MAX_QUERY: usize = 4096;
/// The most mirrors.
const MAX_MIRRORS: usize = 100;

/// Repositories that are followed. `docs/builds.md` describes them.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BuildSettings {
    /// The folder of their mirrors; created if it does not exist.
    pub folder: PathBuf,
    /// The largest mirror of a repository, in MiB.
    #[serde(default = "default_max_mirror")]
    pub max_mirror: u64,
    /// The memory of git for a repository, in MiB.
    #[serde(default = "default_git_memory")]
    pub max_git_memory: u64,
    /// The repository of each service's images, such as `registry.example.com/{service}`; without
    /// it, nothing is built.
    #[serde(default)]
    pub images: Option<String>,
    /// A folder with an OCI layout of the images that builds may start from.
    #[serde(default)]
    pub base_images: Option<PathBuf>,
    /// The mirrors and registries that builds may reach.
    #[serde(default)]
    pub mirrors: Vec<MirrorHost>,
    /// The program of Bazel, for repositories that are workspaces of it.
    #[serde(default)]
    pub bazel: Option<PathBuf>,
    /// How many builds run at the same time.
    #[serde(default = "default_concurrency")]
    pub concurrency: usize,
    /// How many builds of a repository start within an hour.
    #[serde(default = "default_per_hour")]
    pub max_per_hour: u32,
    /// How many builds of a repository start within a day.
    #[serde(default = "default_per_day")]
    pub max_per_day: u32,
    /// How long the build of an image may take.
    #[serde(default = "default_time", deserialize_with = "read_duration")]
    pub max_time: Duration,
    /// The memory of the processes of a build, in MiB.
    #[serde(default = "default_mebibytes")]
    pub max_memory: u64,
    /// The files of a build, in MiB.
    #[serde(default = "default_mebibytes")]
    pub max_disk: u64,
    /// How many processes and threads a build may have.
    #[serde(default = "default_processes")]
    pub max_processes: u32,
    /// The log of a build, in MiB.
    #[serde(default = "default_log")]
    pub max_log: u64,
    /// The Jobs that builds are; without it, they are processes of this machine.
    #[serde(default)]
    pub jobs: Option<JobSettings>,
    /// The repositories.
    pub repositories: Vec<RepositorySettings>,
}

/// Builds as Jobs of the cluster that releases are deployed to.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobSettings {
    /// Their Namespace, in which there is nothing else.
    pub namespace: String,
    /// The image `portcullis-builder`, of the version of the builder.
    pub image: String,
    /// The labels of the nodes that they may run on.
    #[serde(default)]
    pub node_selector: BTreeMap<String, String>,
    /// The taints of nodes that they tolerate.
    #[serde(default)]
    pub tolerations: Vec<Toleration>,
}

/// A repository that is followed.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RepositorySettings {
    /// Its name in commands and in the API.
    pub name: RepositoryName,
    /// Where it is.
    pub url: GitUrl,
    /// The branch that is followed.
    #[serde(default = "default_branch")]
    pub branch: Branch,
    /// The services that it may build: names, or `*` for all.
    pub services: Vec<String>,
    /// How often it is polled.
    #[serde(default = "default_poll", deserialize_with = "read_duration")]
    pub poll_every: Duration,
    /// A file with `USER:PASSWORD`, for HTTPS.
    #[serde(default)]
    pub credentials: Option<PathBuf>,
    /// The authorities of its certificate in PEM; without it, those of the system.
    #[serde(default)]
    pub certificate_authorities: Option<PathBuf>,
    /// The file of the private key, for SSH.
    #[serde(default)]
    pub ssh_key: Option<PathBuf>,
    /// The file of the host's public keys, for SSH, as in `known_hosts`.
    #[serde(default)]
    pub ssh_known_hosts: Option<PathBuf>,
    /// A file with the secret of its push webhook.
    #[serde(default)]
    pub webhook_secret: Option<PathBuf>,
    /// Where the releases of pushed commits are deployed.
    #[serde(default)]
    pub autopush: Option<EnvironmentName>,
    /// The query that finds its targets, if it is a workspace of Bazel.
    #[serde(default)]
    pub bazel_query: Option<String>,
}

fn default_max_mirror() -> u64 {
    2048
}

fn default_git_memory() -> u64 {
    200
}

fn default_concurrency() -> usize {
    2
}

fn default_per_hour() -> u32 {
    30
}

fn default_per_day() -> u32 {
    200
}

fn default_time() -> Duration {
    Duration::from_secs(30 * 60)
}

fn default_mebibytes() -> u64 {
    4096
}

fn default_processes() -> u32 {
    1000
}

fn default_log() -> u64 {
    8
}

fn default_branch() -> Branch {
    Branch::master()
}

fn default_poll() -> Duration {
    Duration::from_secs(60)
}

fn read_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let invalid = || de::Error::custom("it is not a duration: write it as `30s` or `5m`");
    duration::parse(&text).ok_or_else(invalid)
}

// === impl BuildSettings ===

impl BuildSettings {
    /// Makes relative paths relative to a folder.
    pub(super) fn resolve(&mut self, folder: &Path) {
        let resolve = |path: &mut PathBuf| *path = folder.join(&*path);
        resolve(&mut self.folder);
        self.base_images.iter_mut().chain(&mut self.bazel).for_each(resolve);
        for repository in &mut self.repositories {
            repository.files().into_iter().flatten().for_each(resolve);
        }
    }

    /// Reports each problem with how to fix it.
    pub(super) fn check(
        &self,
        registries: &[RegistrySettings],
        report: &mut impl FnMut(String, &str),
    ) {
        self.check_images(registries, report);
        self.check_sandbox_files(report);
        self.check_limits(report);
        self.check_jobs(report);
        if self.mirrors.len() > MAX_MIRRORS {
            report(
                format!("`builds.mirrors`: there are more than {MAX_MIRRORS}"),
                "list mirrors of packages alone",
            );
        }
        if self.repositories.len() > MAX_REPOSITORIES {
            report(
                format!("`builds`: there are more than {MAX_REPOSITORIES} repositories"),
                "run a further builder",
            );
        }
        for name in repeated(self.repositories.iter().map(|repository| repository.name.as_str())) {
            report(format!("the repository {name:?} is there twice"), "keep one of them");
        }
        for repository in &self.repositories {
            repository.check(&mut |problem: &str, help: &str| {
                report(format!("the repository `{}` {problem}", repository.name), help);
            });
        }
    }
}

impl BuildSettings {
    /// The repository of a service's images; `None` if nothing is built.
    #[must_use]
    pub fn image_of(&self, service: &str) -> Option<String> {
        Some(self.images.as_ref()?.replace(SERVICE, service))
    }

    fn check_images(&self, registries: &[RegistrySettings], report: &mut impl FnMut(String, &str)) {
        let Some(images) = &self.images else {
            if self.repositories.iter().any(|repository| repository.autopush.is_some()) {
                report(
                    "`builds`: a repository has `autopush`, and nothing is built".to_owned(),
                    "write `images`, the repository of each service's images",
                );
            }
            return;
        };
        // One service must not replace the images of another.
        let has_service = images.matches(SERVICE).count() == 1;
        let host = images.split_once('/').map(|(host, _)| host);
        let is_known = host.is_some_and(|host| registries.iter().any(|one| one.host == host));
        if !has_service || !is_known || !is_plain(images) {
            report(
                format!(
                    "`builds.images`: {images:?} is not a repository of one of the `registries` \
                     with `{SERVICE}` in it"
                ),
                "write the repository of each service's images, such as \
                 `registry.example.com/{service}`",
            );
        }
    }

    fn check_jobs(&self, report: &mut impl FnMut(String, &str)) {
        let Some(jobs) = &self.jobs else { return };
        if check_label(&jobs.namespace).is_err() {
            report(
                format!(
                    "`builds.jobs.namespace`: {:?} is not the name of a Namespace",
                    jobs.namespace
                ),
                "write the name of a Namespace for builds alone, such as `portcullis-builds`",
            );
        }
        if jobs.image.is_empty() || jobs.image.contains(char::is_whitespace) {
            report(
                format!("`builds.jobs.image`: {:?} is not an image", jobs.image),
                "write the image `portcullis-builder`, of the version of this builder",
            );
        }
    }

    /// The folder of builds is closed to the users of sandboxes, and `/tmp` is behind their own.
    fn check_sandbox_files(&self, report: &mut impl FnMut(String, &str)) {
        for (key, path) in [("baseImages", &self.base_images), ("bazel", &self.bazel)] {
            let path = path.as_ref().map(|path| path.canonicalize().unwrap_or(path.clone()));
            let is_in = |folder: &Path| path.as_ref().is_some_and(|path| path.starts_with(folder));
            // To a Job the builder itself sends the base images.
            let is_sent = key == "baseImages" && self.jobs.is_some();
            let problem = if is_in(&self.folder) {
                "`builds.folder`, which is for the builder alone"
            } else if is_in(Path::new("/tmp")) && !is_sent {
                "`/tmp`, of which a sandbox has one of its own"
            } else {
                continue;
            };
            report(format!("`builds.{key}` is in {problem}"), "move it to a folder of its own");
        }
        let mut queries = self.repositories.iter().map(|repository| &repository.bazel_query);
        if self.bazel.is_none() && queries.any(Option::is_some) {
            report(
                "`builds`: a repository has `bazelQuery`, and there is no Bazel".to_owned(),
                "write `bazel`, the path of its program",
            );
        }
    }

    fn check_limits(&self, report: &mut impl FnMut(String, &str)) {
        let sizes = [self.max_memory, self.max_disk, self.max_log, self.max_git_memory];
        let is_positive = sizes.iter().all(|size| (1..=1 << 20).contains(size))
            && (1..=64).contains(&self.concurrency)
            && self.max_per_hour > 0
            && self.max_per_day > 0
            && (16..=100_000).contains(&self.max_processes);
        if !is_positive {
            report(
                "`builds`: a limit is 0, or too large".to_owned(),
                "write a `concurrency` of 1 to 64, 16 to 100000 `maxProcesses`, and at most 1048576 \
                 MiB",
            );
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(24 * 3600)).contains(&self.max_time) {
            report(
                "`builds.maxTime` is below 1 s or above 24 h".to_owned(),
                "write a time such as `30m`",
            );
        }
    }
}

/// Whether the host alone has a colon: an image has neither tag nor digest.
fn is_plain(images: &str) -> bool {
    images.split_once('/').is_some_and(|(_, repository)| !repository.contains([':', '@']))
}

// === impl RepositorySettings ===

impl RepositorySettings {
    /// Whether it may build a service.
    #[must_use]
    pub fn may_build(&self, service: &str) -> bool {
        self.services.iter().any(|name| name == "*" || name == service)
    }

    fn files(&mut self) -> [Option<&mut PathBuf>; 5] {
        [
            self.credentials.as_mut(),
            self.certificate_authorities.as_mut(),
            self.ssh_key.as_mut(),
            self.ssh_known_hosts.as_mut(),
            self.webhook_secret.as_mut(),
        ]
    }

    fn check(&self, report: &mut impl FnMut(&str, &str)) {
        let is_name = |name: &String| name == "*" || check_label(name).is_ok();
        if self.services.is_empty() || !self.services.iter().all(is_name) {
            report("has no `services`, or one that is not a name", "write names, or `*` for all");
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(24 * 3600)).contains(&self.poll_every) {
            report("has a `pollEvery` below 1 s or above 24 h", "write a time such as `60s`");
        }
        let is_query = |text: &String| {
            (1..=MAX_QUERY).contains(&text.len()) && !text.chars().any(char::is_control)
        };
        if !self.bazel_query.as_ref().is_none_or(is_query) {
            report(
                "has a `bazelQuery` that is empty, too long, or has control characters",
                "write an expression of Bazel's query language in one line",
            );
        }
        let ssh = [&self.ssh_key, &self.ssh_known_hosts];
        let https = [&self.credentials, &self.certificate_authorities];
        match self.url.transport() {
            Transport::Https if ssh.iter().any(|file| file.is_some()) => {
                report("is reached by HTTPS, and has files for SSH", "remove them");
            }
            Transport::Ssh if https.iter().any(|file| file.is_some()) => {
                report("is reached by SSH, and has files for HTTPS", "remove them");
            }
            Transport::Ssh if ssh.iter().any(|file| file.is_none()) => report(
                "is reached by SSH, and has no `sshKey` or no `sshKnownHosts`",
                "name both files: `ssh-keyscan HOST` prints the keys of a host, which have to be \
                 compared with those that it publishes",
            ),
            _ => {}
        }
        // git passes the command of ssh to a shell, and ssh splits the value of an option.
        let is_plain = |path: &Path| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._+-".contains(&byte);
            path.as_os_str().as_encoded_bytes().iter().copied().all(is_plain)
        };
        if !ssh.iter().copied().flatten().all(|path| is_plain(path)) {
            report(
                "has a path of a file for SSH with special characters",
                "use letters, digits, `.`, `_`, `+`, `-` and `/` alone",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::MAX_MIRRORS;
    use crate::settings::Settings;

    /// The problems of a configuration with these repositories.
    fn problems(repositories: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("builder.yaml");
        let text = format!(
            "store: s\nregistries: []\ncallers: []\nbuilds:\n  folder: m\n  repositories:\n{repositories}"
        );
        std::fs::write(&path, text).unwrap();
        let read = Settings::read(&path).err().unwrap_or_default();
        read.into_iter().map(|problem| problem.message).collect()
    }

    #[test]
    fn images_are_of_a_known_registry_and_of_one_service() {
        let problems = |builds: &str| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("builder.yaml");
            let text = format!(
                "store: s\nregistries: [{{host: 'r.test:5000'}}]\ncallers: []\n\
                 builds: {{folder: m, repositories: [], {builds}}}\n"
            );
            std::fs::write(&path, text).unwrap();
            Settings::read(&path).err().unwrap_or_default().len()
        };
        assert_eq!(problems("images: 'r.test:5000/team/{service}'"), 0);
        assert_eq!(problems("jobs: {namespace: builds, image: 'r.test/portcullis-builder:1'}"), 0);
        for bad in [
            "images: 'r.test:5000/team'",
            "images: 'r.test/{service}'",
            "images: '{service}'",
            "images: 'r.test:5000/{service}:1'",
            "images: 'r.test:5000/{service}/{service}'",
            "concurrency: 0",
            "maxMemory: 0",
            "maxProcesses: 1",
            "maxTime: 25h",
            "baseImages: m/base",
            "jobs: {namespace: Builds, image: x}",
            "jobs: {namespace: builds, image: ''}",
            "jobs: {namespace: builds}",
            "bazel: m/bazel",
            "mirrors: ['https://mirror.test']",
            "mirrors: ['*.mirror.test']",
            &format!("mirrors: [{}]", "mirror.test,".repeat(MAX_MIRRORS + 1)),
            "bazel: /tmp/bazel",
            "baseImages: /tmp/base",
        ] {
            let images = "images: 'r.test:5000/{service}'";
            let bad =
                if bad.starts_with('b') { format!("{images}, {bad}") } else { bad.to_owned() };
            assert_eq!(problems(&bad), 1, "{bad}");
        }
        let mirrors = "images: 'r.test:5000/{service}', mirrors: [npm.mirror.test, 'deb.test:80']";
        assert_eq!(problems(mirrors), 0);
        // The builder itself reads them for Jobs.
        let jobs = "images: 'r.test:5000/{service}', baseImages: /tmp/base, \
                    jobs: {namespace: builds, image: x}";
        assert_eq!(problems(jobs), 0);
    }

    #[test]
    fn a_repository_has_the_files_of_its_transport_and_plain_paths() {
        let https = "  - {name: shop, url: 'https://git.test/shop', services: [web]}\n";
        let ssh = "  - {name: api, url: 'ssh://git@git.test/api', services: ['*'], sshKey: key, \
                   sshKnownHosts: hosts, branch: '$(x)', pollEvery: 5m}\n";
        assert_eq!(problems(&format!("{https}{ssh}")), [""; 0]);
        for (repositories, expected) in [
            (https.repeat(2), "the repository \"shop\" is there twice"),
            (https.replace("web", "Web"), "has no `services`, or one that is not a name"),
            (https.replace("[web]", "[]"), "has no `services`, or one that is not a name"),
            (https.replace('}', ", pollEvery: 500ms}"), "has a `pollEvery` below 1 s"),
            (https.replace('}', ", sshKey: x}"), "is reached by HTTPS, and has files for SSH"),
            (ssh.replace('}', ", credentials: x}"), "is reached by SSH, and has files for HTTPS"),
            (ssh.replace("sshKey: key, ", ""), "is reached by SSH, and has no `sshKey`"),
            (ssh.replace(": key", ": '$(x)'"), "has a path of a file for SSH with special"),
            (ssh.replace(": hosts", ": 'a b'"), "has a path of a file for SSH with special"),
            (https.replace("https", "http"), "it is not the URL of a repository"),
            (ssh.replace("'$(x)'", "'a..b'"), "is not the name of a branch"),
            (https.replace('}', ", pollEvery: 5}"), "pollEvery"),
            (https.replace('}', ", autopush: dev}"), "has `autopush`, and nothing is built"),
            (https.replace('}', ", bazelQuery: //...}"), "has `bazelQuery`, and there is no Bazel"),
            (https.replace('}', ", bazelQuery: ''}"), "has a `bazelQuery` that is empty"),
            (https.replace('}', ", bazelQuery: \"a\\nb\"}"), "has a `bazelQuery` that is empty"),
        ] {
            let found = problems(&repositories);
            assert!(
                found.iter().any(|problem| problem.contains(expected)),
                "{expected}: {found:?}"
            );
        }
    }
}
