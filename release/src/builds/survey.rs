//! Everything that a commit would build, and every problem.

use portcullis_config::problem::{Problem, Severity};

use super::git::{GitError, Repository};
use super::path::RepositoryPath;
use super::targets::{self, FILE, Found, InputKey, Label, Target};
use super::tree::{Entry, Tree};
use crate::manifest::{MAX_BYTES, Template, TemplateProblem};
use crate::model::CommitId;

/// What a commit would build.
#[derive(Debug)]
pub struct Survey {
    /// The commit.
    pub commit: CommitId,
    /// The targets without an error.
    pub targets: Vec<Surveyed>,
    /// All problems, with their place.
    pub problems: Vec<Problem>,
    /// Whether it is a workspace of Bazel, whose targets a query has to find: see
    /// [`survey_labels`].
    pub is_workspace: bool,
}

/// A target with what its release would have.
#[derive(Debug)]
pub struct Surveyed {
    /// The target.
    pub target: Target,
    /// The key of the files that its image depends on.
    pub key: InputKey,
    /// The key of its files of manifests.
    pub manifests: InputKey,
    /// Its manifests.
    pub template: Template,
}

/// The manifests of a target as one text of YAML, of which each part is from a file.
struct Manifests {
    text: String,
    /// The first line of each file in the text, from 1.
    files: Vec<(u32, RepositoryPath)>,
}

/// Reads what a commit would build.
///
/// # Errors
/// The commit cannot be read. Problems of what is in it are part of the survey.
pub async fn survey(repository: &Repository, commit: &CommitId) -> Result<Survey, GitError> {
    let tree = repository.tree(commit).await?;
    let file = tree.get(&RepositoryPath::root().join(FILE));
    let found = match file {
        Some(file) if file.is_file() => {
            let contents = repository.contents(&[file]).await?;
            targets::find(&tree, contents.first().map(Vec::as_slice), &repository.name())
        }
        // What it would name is not known, so nothing is built.
        Some(_) => Found { problems: vec![not_regular()], ..Found::default() },
        None => targets::find(&tree, None, &repository.name()),
    };
    with_templates(repository, commit, &tree, found).await
}

/// Reads what a commit would build whose targets a query of Bazel has found.
///
/// # Errors
/// The commit cannot be read.
pub async fn survey_labels(
    repository: &Repository,
    commit: &CommitId,
    labels: &[Label],
) -> Result<Survey, GitError> {
    let tree = repository.tree(commit).await?;
    let found = targets::of_labels(&tree, labels, &repository.name());
    with_templates(repository, commit, &tree, found).await
}

async fn with_templates(
    repository: &Repository,
    commit: &CommitId,
    tree: &Tree,
    found: Found,
) -> Result<Survey, GitError> {
    let Found { targets, mut problems, workspace } = found;
    let mut surveyed = Vec::new();
    for target in targets {
        match template(repository, tree, &target).await? {
            Ok(template) => {
                let key = target.key(tree);
                let manifests = target.manifests_key(tree);
                surveyed.push(Surveyed { target, key, manifests, template });
            }
            Err(found) => problems.extend(found),
        }
    }
    problems.sort();
    let is_workspace = workspace.is_some();
    Ok(Survey { commit: commit.clone(), targets: surveyed, problems, is_workspace })
}

fn not_regular() -> Problem {
    let file = RepositoryPath::root().join(FILE);
    targets::error(&file, "it is not a regular file", "write a regular file")
}

/// The manifests of a target, or their problems.
async fn template(
    repository: &Repository,
    tree: &Tree,
    target: &Target,
) -> Result<Result<Template, Vec<Problem>>, GitError> {
    let place = target.place();
    let files: Vec<&Entry> = target.manifests.iter().filter_map(|path| tree.get(path)).collect();
    let size: u64 = files.iter().map(|file| file.size).sum();
    if size > u64::try_from(MAX_BYTES).unwrap_or(u64::MAX) {
        let message = format!("its manifests have more than {MAX_BYTES} bytes");
        let help = "move large files out of ConfigMaps into the image";
        return Ok(Err(vec![targets::error(&place, message, help)]));
    }
    let contents = repository.contents(&files).await?;
    let manifests = match Manifests::join(target, &contents) {
        Ok(manifests) => manifests,
        Err(path) => {
            let help = "write the manifests in UTF-8";
            return Ok(Err(vec![targets::error(&path, "it is not a text", help)]));
        }
    };
    let parsed = Template::parse(&manifests.text.as_str().into());
    Ok(parsed.map_err(|problems| {
        problems.into_iter().map(|problem| manifests.problem(target, problem)).collect()
    }))
}

// === impl Manifests ===

impl Manifests {
    /// Joins the contents of the files of a target, or returns the one that is not a text.
    fn join(target: &Target, contents: &[Vec<u8>]) -> Result<Self, RepositoryPath> {
        let mut joined = Self { text: String::new(), files: Vec::new() };
        let mut lines: u32 = 1;
        for (path, content) in target.manifests.iter().zip(contents) {
            let text = std::str::from_utf8(content).map_err(|_| path.clone())?;
            joined.files.push((lines, path.clone()));
            joined.text.push_str(text);
            joined.text.push_str("\n---\n");
            let count = text.matches('\n').count().saturating_add(2);
            lines = lines.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        }
        Ok(joined)
    }

    /// A problem of the text, at its file and line. One of a document is reported for the first file.
    fn problem(&self, target: &Target, problem: TemplateProblem) -> Problem {
        let line = problem.line.unwrap_or(1);
        let (first, file) = match self.files.iter().rev().find(|(first, _)| *first <= line) {
            Some((first, file)) => (*first, file.clone()),
            None => (1, target.place()),
        };
        let message = match problem.pointer {
            Some(pointer) => format!("{pointer}: {}", problem.message),
            None => problem.message,
        };
        let line = line.saturating_sub(first).saturating_add(1);
        targets::problem(Severity::Error, &file, line, message, &problem.help)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builds::git::tests::WorkTree;

    const GOOD: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  \
                        template:\n    spec:\n      containers:\n      - {name: web, image: \
                        {{image}}}\n";

    async fn surveyed(work: &WorkTree) -> Survey {
        let repository = Repository::discover(work.path()).await.unwrap();
        survey(&repository, &work.commit()).await.unwrap()
    }

    fn problems(survey: &Survey) -> Vec<String> {
        survey.problems.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn a_commit_is_surveyed_with_the_manifests_that_it_has() {
        let work = WorkTree::new();
        work.write("web/Dockerfile", "FROM scratch\n");
        work.write("web/k8s/a.yaml", GOOD);
        work.write("web/k8s/b.yml", "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n");
        work.write("web/k8s/README.md", "not a manifest");
        let first = surveyed(&work).await;
        assert_eq!(problems(&first), [""; 0]);
        assert_eq!(first.targets[0].target.service.as_str(), "web");
        assert_eq!(first.targets[0].template.objects().count(), 2);
        work.write("other", "x");
        let second = surveyed(&work).await;
        assert_ne!(first.commit, second.commit);
        assert_eq!(first.targets[0].key, second.targets[0].key, "its inputs are the same");
        work.write("web/main.c", "int main() {}\n");
        let third = surveyed(&work).await;
        assert_ne!(third.targets[0].key, second.targets[0].key);
    }

    #[tokio::test]
    async fn a_problem_of_manifests_has_file_and_line_and_stops_its_target_alone() {
        let work = WorkTree::new();
        for folder in ["web", "shop", "latin"] {
            work.write(&format!("{folder}/Dockerfile"), "FROM scratch\n");
            work.write(&format!("{folder}/manifests/1.yaml"), &GOOD.replace("web", folder));
        }
        work.write("web/manifests/2.yaml", "a: b\nc: ]\n");
        let latin = work.path().join("latin/manifests/2.yaml");
        std::fs::write(latin, b"# \xe9\n").unwrap();
        let survey = surveyed(&work).await;
        let names: Vec<&str> =
            survey.targets.iter().map(|found| found.target.service.as_str()).collect();
        assert_eq!(names, ["shop"]);
        let problems = problems(&survey);
        assert!(
            problems[0].starts_with("latin/manifests/2.yaml:1:1: it is not a text"),
            "{problems:?}"
        );
        assert!(problems[1].starts_with("web/manifests/2.yaml:2:1: "), "{problems:?}");
        assert_eq!(problems.len(), 2);
    }

    #[tokio::test]
    async fn links_are_not_followed() {
        let work = WorkTree::new();
        let link = |target: &str, path: &str| {
            work.write(&format!("{path}.x"), "");
            std::os::unix::fs::symlink(target, work.path().join(path)).unwrap();
        };
        work.write("web/Dockerfile", "FROM scratch\n");
        link("/etc/passwd", "web/manifests.yaml");
        link("../../../etc/passwd", "shop/Dockerfile");
        work.write("shop/manifests.yaml", GOOD);
        link("/etc", "cart/k8s");
        work.write("cart/Dockerfile", "FROM scratch\n");
        let survey = surveyed(&work).await;
        assert!(survey.targets.is_empty());
        let problems = problems(&survey);
        for (problem, link) in
            problems.iter().zip(["cart/k8s", "shop/Dockerfile", "web/manifests.yaml"])
        {
            let expected =
                format!("{link} is a symbolic link, and symbolic links are not followed");
            assert!(problem.contains(&expected), "{problems:?}");
        }
        assert_eq!(problems.len(), 3);
        link("/etc/passwd", FILE);
        let survey = surveyed(&work).await;
        assert!(
            self::problems(&survey)
                .iter()
                .any(|it| it.contains("portcullis.yaml:1:1: it is not a"))
        );
    }
}
