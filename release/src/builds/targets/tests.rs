use super::*;

/// A tree of these files; a path that ends with `@` is a symbolic link, with `+` a submodule.
fn tree(paths: &[&str]) -> Tree {
    let line = |path: &str| {
        let hash = "0".repeat(40);
        match (path.strip_suffix('@'), path.strip_suffix('+')) {
            (Some(path), _) => format!("120000 blob {hash} 9\t{path}\0"),
            (_, Some(path)) => format!("160000 commit {hash} -\t{path}\0"),
            (None, None) => format!("100644 blob {hash} 9\t{path}\0"),
        }
    };
    Tree::parse(paths.iter().copied().map(line).collect::<String>().as_bytes()).unwrap()
}

/// The services with context and manifests, and the problems.
fn found(paths: &[&str], file: Option<&str>) -> (Vec<String>, Vec<String>) {
    let found = find(&tree(paths), file.map(str::as_bytes), "shop");
    let target = |target: &Target| {
        let files: Vec<String> = target.manifests.iter().map(ToString::to_string).collect();
        format!("{} {} {}", target.service, target.context, files.join(","))
    };
    let problem = |problem: &Problem| format!("{}: {}", problem.origin, problem.message);
    (found.targets.iter().map(target).collect(), found.problems.iter().map(problem).collect())
}

#[test]
fn each_dockerfile_with_manifests_beside_it_is_a_service() {
    let (targets, problems) = found(
        &[
            "Dockerfile",
            "k8s.yaml",
            "api/Containerfile",
            "api/kubernetes/b.yaml",
            "api/kubernetes/a.json",
            "api/kubernetes/sub/c.yaml",
            "tools/Dockerfile",
            "node_modules/x/Dockerfile",
            "node_modules/x/k8s.yaml",
            ".devcontainer/Dockerfile",
            "web/Dockerfile.dev",
            "web/k8s.yaml",
        ],
        None,
    );
    assert_eq!(targets, ["shop . k8s.yaml", "api api api/kubernetes/a.json,api/kubernetes/b.yaml"]);
    let unused = "tools/Dockerfile:1:1: it is not built, since there are no manifests beside it";
    assert_eq!(problems, [unused]);
}

#[test]
fn what_has_two_readings_is_not_built() {
    let (targets, problems) = found(
        &[
            "a/web/Dockerfile",
            "a/web/k8s.yaml",
            "b/web/Dockerfile",
            "b/web/k8s.yaml",
            "both/Dockerfile",
            "both/Containerfile",
            "both/k8s.yaml",
            "many/Dockerfile",
            "many/k8s.yaml",
            "many/manifests/x.yaml",
            "Upper/Dockerfile",
            "Upper/k8s.yaml",
            "fine/Dockerfile",
            "fine/k8s.yaml",
        ],
        None,
    );
    assert_eq!(targets, ["fine fine fine/k8s.yaml"]);
    assert_eq!(
        problems,
        [
            "Upper/Dockerfile:1:1: the folder's name \"Upper\" cannot be the name of a service",
            "both/Containerfile:1:1: both has both a Dockerfile and a Containerfile",
            "both/Dockerfile:1:1: both has both a Dockerfile and a Containerfile",
            "many/Dockerfile:1:1: its manifests may be in any of these: many/k8s.yaml, many/manifests",
            "a/web/Dockerfile:1:1: the service web has another image, by b/web/Dockerfile",
            "b/web/Dockerfile:1:1: the service web has another image, by a/web/Dockerfile",
        ]
    );
    assert_eq!(found(&["README.md"], None).1.len(), 1, "a repository without targets says so");
}

#[test]
fn the_file_names_the_targets() {
    let file = "services:\n- name: web\n  context: services/web\n  manifests: [deploy/web]\n- name: \
                api\n  dockerfile: api/build/Dockerfile\n  context: .\n  inputs: [lib]\n  \
                manifests: [deploy/api.yaml, deploy/web/b.yaml]\n";
    let paths = [
        "services/web/Containerfile",
        "deploy/web/a.yaml",
        "deploy/web/b.yaml",
        "deploy/api.yaml",
        "api/build/Dockerfile",
        "lib/x",
        "other/Dockerfile",
        "other/k8s.yaml",
    ];
    let (targets, problems) = found(&paths, Some(file));
    assert_eq!(problems, [""; 0]);
    assert_eq!(
        targets,
        [
            "web services/web deploy/web/a.yaml,deploy/web/b.yaml",
            "api . deploy/api.yaml,deploy/web/b.yaml",
        ]
    );
}

#[test]
fn each_problem_of_the_file_has_its_place_and_stops_its_service_alone() {
    let good = "- {name: good, dockerfile: a/Dockerfile, manifests: [k8s.yaml]}";
    let paths = ["a/Dockerfile", "k8s.yaml", "link@", "sub/module+", "sub/Dockerfile", "a/b"];
    for (entry, expected) in [
        (
            "{name: web, dockerfile: none, manifests: [k8s.yaml]}",
            "dockerfile`: the commit has no none",
        ),
        (
            "{name: web, dockerfile: a, manifests: [k8s.yaml]}",
            "dockerfile`: a is a folder, not a file",
        ),
        (
            "{name: web, dockerfile: link, manifests: [k8s.yaml]}",
            "dockerfile`: link is a symbolic link",
        ),
        (
            "{name: web, dockerfile: link/x, manifests: [k8s.yaml]}",
            "dockerfile`: link/x is behind link, which is a symbolic link",
        ),
        (
            "{name: web, dockerfile: a/Dockerfile, context: k8s.yaml, manifests: [k8s.yaml]}",
            "context`: k8s.yaml is not a folder",
        ),
        ("{name: web, context: link, manifests: [k8s.yaml]}", "dockerfile`: it is missing"),
        ("{name: web, dockerfile: a/Dockerfile, manifests: [a]}", "manifests`: a has no files"),
        ("{name: web, dockerfile: a/Dockerfile, manifests: []}", "manifests`: it names 0 files"),
        (
            "{name: web, dockerfile: a/Dockerfile, inputs: [x], manifests: [k8s.yaml]}",
            "inputs`: the commit has no x",
        ),
        (
            "{name: web, command: [x], manifests: [k8s.yaml]}",
            "output`: it is missing: name what the command leaves",
        ),
        (
            "{name: web, command: [x], output: b/x, context: a, manifests: [k8s.yaml]}",
            "output`: b/x is not in the context a",
        ),
        (
            "{name: web, command: [x], output: ab, context: a, manifests: [k8s.yaml]}",
            "output`: ab is not in the context a",
        ),
        (
            "{name: web, command: [x], output: ., manifests: [k8s.yaml]}",
            "output`: . is not in the context .",
        ),
        (
            "{name: web, command: [], output: x, manifests: [k8s.yaml]}",
            "command`: it is not a program and its arguments",
        ),
        (
            "{name: web, command: [''], output: x, manifests: [k8s.yaml]}",
            "command`: it is not a program and its arguments",
        ),
        (
            "{name: web, command: [x, \"a\\0b\"], output: x, manifests: [k8s.yaml]}",
            "command`: it is not a program and its arguments",
        ),
        (
            "{name: web, command: [x], output: x, dockerfile: a/b, manifests: [k8s.yaml]}",
            "command`: there is another of `dockerfile`, `command` and `bazel`",
        ),
        (
            "{name: web, bazel: //a:b, dockerfile: a/b, manifests: [k8s.yaml]}",
            "bazel`: there is another of `dockerfile`, `command` and `bazel`",
        ),
        (
            "{name: web, dockerfile: a/b, output: x, manifests: [k8s.yaml]}",
            "output`: it belongs to a `command`, which is missing",
        ),
        (
            "{name: web, bazel: //a:b, output: x, manifests: [k8s.yaml]}",
            "output`: it belongs to a `command`, which is missing",
        ),
        (
            "{name: web, bazel: //a:b, context: a, manifests: [k8s.yaml]}",
            "context`: Bazel gets the whole repository",
        ),
    ] {
        let (targets, problems) = found(&paths, Some(&format!("services:\n{good}\n- {entry}\n")));
        let expected = format!("portcullis.yaml:1:1: `services[1].{expected}");
        assert!(problems[0].starts_with(&expected), "{problems:?}");
        assert_eq!((targets.len(), problems.len()), (1, 1), "{entry}: {problems:?}");
    }
    let submodule =
        format!("services:\n{good}\n- {{name: web, context: sub, manifests: [k8s.yaml]}}\n");
    let (targets, problems) = found(&paths, Some(&submodule));
    assert_eq!(targets.len(), 1);
    assert!(problems[0].contains("\"sub/module\" is a submodule"), "{problems:?}");
    // What the format does not allow has its line.
    for (entry, line) in [
        ("{name: web, dockerfile: ../../etc/passwd, manifests: [k8s.yaml]}", "portcullis.yaml:3:"),
        ("{name: web, dockerfile: /etc/passwd, manifests: [k8s.yaml]}", "portcullis.yaml:3:"),
        ("{name: WEB, dockerfile: a/Dockerfile, manifests: [k8s.yaml]}", "portcullis.yaml:3:"),
        ("{name: web, dockerfil: a/Dockerfile, manifests: [k8s.yaml]}", "portcullis.yaml:3:"),
        ("{name: web, command: [x], output: ../x, manifests: [k8s.yaml]}", "portcullis.yaml:3:"),
        ("{name: web, command: [x], output: /tmp/x, manifests: [k8s.yaml]}", "portcullis.yaml:3:"),
        ("{name: web, command: make x, output: x, manifests: [k8s.yaml]}", "portcullis.yaml:3:"),
        ("{name: web, bazel: '@x//a:b', manifests: [k8s.yaml]}", "portcullis.yaml:3:"),
        ("{name: web, bazel: //a:all, manifests: [k8s.yaml]}", "portcullis.yaml:3:"),
        ("]", "portcullis.yaml:3:"),
    ] {
        let (targets, problems) = found(&paths, Some(&format!("services:\n{good}\n- {entry}\n")));
        assert!(problems[0].starts_with(line), "{entry}: {problems:?}");
        assert!(targets.is_empty());
    }
}

#[test]
fn a_key_depends_on_what_the_image_depends_on_alone() {
    let target = |tree: &Tree| find(tree, None, "shop").targets.remove(0);
    let base = ["web/Dockerfile", "web/a", "web/k8s.yaml", "website/a"];
    let key = |paths: &[&str]| {
        let tree = tree(paths);
        target(&tree).key(&tree)
    };
    let same = [&base[..], &["other", "web.c"]].concat();
    assert_eq!(key(&base), key(&same));
    assert_eq!(key(&base), key(&["web/Dockerfile", "web/a", "web/k8s.yaml"]));
    for other in [
        &["web/Dockerfile", "web/k8s.yaml"][..],
        &["web/Dockerfile", "web/b", "web/k8s.yaml"],
        &["web/Dockerfile", "web/a@", "web/k8s.yaml"],
        &["web/Dockerfile", "web/a", "web/k8s.yaml", "web/b"],
        &["shop/Dockerfile", "shop/a", "shop/k8s.yaml"],
    ] {
        assert_ne!(key(&base), key(other), "{other:?}");
    }
}

#[test]
fn commands_and_targets_of_bazel_are_named_in_the_file() {
    let file = "services:\n- {name: web, command: [make, image], output: web/out, context: web, \
                manifests: [k8s.yaml]}\n- {name: api, command: [make], output: out, manifests: \
                [k8s.yaml]}\n- {name: cart, bazel: '//cart:image', manifests: [k8s.yaml]}\n";
    let tree = tree(&["web/x", "k8s.yaml", "cart/BUILD"]);
    let found = find(&tree, Some(file.as_bytes()), "shop");
    assert_eq!(found.problems, []);
    let recipes: Vec<_> =
        found.targets.iter().map(|it| (it.context.to_string(), it.recipe.clone())).collect();
    let command = |words: &[&str], output: &str| Recipe::Command {
        command: words.iter().copied().map(str::to_owned).collect(),
        output: output.parse().unwrap(),
    };
    assert_eq!(
        recipes,
        [
            ("web".to_owned(), command(&["make", "image"], "web/out")),
            (".".to_owned(), command(&["make"], "out")),
            (".".to_owned(), Recipe::Bazel("//cart:image".parse().unwrap())),
        ]
    );
    // The key has the command, its output and the inputs.
    let key = |entry: &str| {
        let file = format!("services:\n- {{name: web, {entry}, manifests: [k8s.yaml]}}\n");
        find(&tree, Some(file.as_bytes()), "shop").targets.remove(0).key(&tree)
    };
    let keys: Vec<InputKey> = [
        "command: [make, image], output: out",
        "command: [make image], output: out",
        "command: [make, image, ''], output: out",
        "command: [make, image], output: image",
        "command: [make, image], output: web/out, context: web",
        "bazel: //cart:image",
        "bazel: //cart:other",
        "command: [make, image], output: out",
    ]
    .map(key)
    .into();
    assert_eq!(keys[0], keys[7]);
    assert_eq!(keys.iter().collect::<std::collections::HashSet<_>>().len(), 7);
}

#[test]
fn commands_and_inputs_are_bounded() {
    let tree = tree(&["web/x", "k8s.yaml"]);
    for (entry, expected) in [
        (format!("command: [{}]", "'x', ".repeat(101)), "of at most 4096 bytes"),
        (format!("command: [{}]", format!("{}, ", "x".repeat(4000)).repeat(9)), "32768 together"),
        (
            format!("command: [x], inputs: [{}]", "web, ".repeat(101)),
            "it names 101, and at most 100",
        ),
    ] {
        let file =
            format!("services:\n- {{name: web, {entry}, output: out, manifests: [k8s.yaml]}}\n");
        let problems = find(&tree, Some(file.as_bytes()), "shop").problems;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].message.contains(expected), "{problems:?}");
    }
}

#[test]
fn a_workspace_of_bazel_without_images_is_queried() {
    for file in ["WORKSPACE", "WORKSPACE.bazel", "MODULE.bazel"] {
        let tree = tree(&[file, "web/BUILD", "web/k8s.yaml", "tools/Dockerfile"]);
        let found = find(&tree, None, "shop");
        assert_eq!(found.workspace, Some(file.parse().unwrap()));
        assert!(found.problems.iter().all(|problem| problem.severity == Severity::Warning));
    }
    // Where there is another image, or an error that may hide one, there is no query.
    for paths in [
        &["WORKSPACE", "web/Dockerfile", "web/k8s.yaml"][..],
        &["WORKSPACE", "web/Dockerfile", "web/Containerfile", "web/k8s.yaml"],
        &["WORKSPACE@"],
        &["web/WORKSPACE"],
    ] {
        let found = find(&tree(paths), None, "shop");
        assert_eq!(found.workspace, None, "{paths:?}");
    }
    let named = "services: [{name: web, dockerfile: Dockerfile, manifests: [k8s.yaml]}]";
    let tree = tree(&["WORKSPACE", "Dockerfile", "k8s.yaml"]);
    assert_eq!(find(&tree, Some(named.as_bytes()), "shop").workspace, None);
}

#[test]
fn labels_are_services_of_their_packages() {
    let tree = tree(&[
        "BUILD",
        "k8s.yaml",
        "a/web/BUILD.bazel",
        "a/web/k8s/x.yaml",
        "cart/BUILD",
        "link/BUILD@",
        "link/k8s.yaml",
        "twice/BUILD",
        "twice/k8s.yaml",
        "other/k8s.yaml",
        "vendor/x/BUILD",
        "vendor/x/k8s.yaml",
    ]);
    let labels = [
        "//:image",
        "//a/web:x/y",
        "//cart:image",
        "//link:image",
        "//none:image",
        "//other:image",
        "//twice:a",
        "//twice:b",
        "//vendor/x:image",
    ];
    let labels: Vec<Label> = labels.iter().map(|label| label.parse().unwrap()).collect();
    let found = of_labels(&tree, &labels, "shop");
    let targets: Vec<String> = found
        .targets
        .iter()
        .map(|target| format!("{} {:?} {}", target.service, target.recipe, target.context))
        .collect();
    let recipe = |label: &str| format!("{:?}", Recipe::Bazel(label.parse().unwrap()));
    assert_eq!(
        targets,
        [format!("shop {} .", recipe("//:image")), format!("web {} .", recipe("//a/web:x/y"))]
    );
    let problems: Vec<String> = found
        .problems
        .iter()
        .map(|problem| format!("{}: {}", problem.origin, problem.message))
        .collect();
    assert_eq!(
        problems,
        [
            "cart:1:1: //cart:image: it is not built, since there are no manifests beside it",
            "link:1:1: //link:image: link has no regular file BUILD.bazel or BUILD",
            "none:1:1: //none:image: none has no regular file BUILD.bazel or BUILD",
            "other:1:1: //other:image: other has no regular file BUILD.bazel or BUILD",
            "vendor/x:1:1: //vendor/x:image: it is not built: its folder is one of other people's code",
            "twice:1:1: the service twice has another image, by twice",
            "twice:1:1: the service twice has another image, by twice",
        ]
    );
    assert_eq!(of_labels(&tree, &[], "shop").problems.len(), 1, "nothing was found");
}

#[test]
fn a_hostile_commit_has_bounded_problems() {
    let paths: Vec<String> = (0..5000).map(|number| format!("{number}/Dockerfile")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let (targets, problems) = found(&paths, None);
    assert_eq!((targets.len(), problems.len()), (0, MAX_PROBLEMS));
}
