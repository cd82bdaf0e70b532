use serde_json::json;

use super::*;
use crate::manifest::{Template, TemplateProblem};

fn problems(value: &serde_json::Value) -> Vec<String> {
    let problems = Settings::parse(value).unwrap_err();
    let shown = |problem: &TemplateProblem| {
        format!("{} {}", problem.pointer.as_deref().unwrap(), problem.message)
    };
    problems.iter().map(shown).collect()
}

#[test]
fn steps_are_a_list_and_the_rest_has_defaults() {
    let settings = Settings::parse(&json!([
        { "weight": 1, "hold": "10m" },
        { "weight": 2.5, "hold": "30m", "manual": true },
        { "weight": "50" },
        { "weight": 100 },
    ]));
    let step = |weight, minutes, manual| Step { weight, hold: minutes * MINUTE, manual };
    let steps = vec![
        step(100, 10, false),
        step(250, 30, true),
        step(5_000, 5, false),
        step(10_000, 0, false),
    ];
    assert_eq!(settings.unwrap(), Settings { steps, ..Settings::default() });
    let blue_green = Settings::parse(&json!([{ "weight": 100 }])).unwrap();
    assert_eq!(blue_green.steps, [Step::ALL]);
}

#[test]
fn a_map_has_objectives_and_error_rates() {
    let settings = Settings::parse(&json!({
        "steps": [{ "weight": 100, "hold": "1h" }],
        "objectives": { "errorRatio": 0.001, "p50": "20ms", "p99": "250ms" },
        "alpha": 0.05, "beta": 0.1, "ratio": 2, "maxHold": "2h", "warmUp": "0s", "replaceBelow": 0,
    }));
    let settings = settings.unwrap();
    assert!(settings.objectives.thresholds().eq([20_000, 250_000]));
    assert_eq!((settings.max_hold, settings.warm_up, settings.replace_below), (120 * MINUTE, 0, 0));
    let plan = settings.plan(true);
    let names: Vec<&str> = plan.metrics.iter().map(|metric| metric.name.as_str()).collect();
    assert_eq!(names, ["errors", "slow", "p50", "p99"]);
    let shares = plan.metrics[2..].iter().map(|metric| metric.objective.unwrap().value());
    assert!(shares.eq([0.5, 0.01]));
    assert_eq!(plan.metrics[0].objective.unwrap().value(), 0.001);
    assert_eq!((plan.alpha.value(), plan.ratio.guard().value()), (0.05, 1.5));
}

#[test]
fn all_problems_are_reported_at_once() {
    let found = problems(&json!({
        "steps": [
            { "weight": 10, "hold": "0s" },
            { "weight": 10 },
            { "weight": 5, "hold": 7 },
            { "weight": 0, "wait": "5m" },
            { "hold": "5m", "manual": "yes" },
            "all",
        ],
        "alpha": 0, "beta": 1, "ratio": 1, "replaceBelow": 200, "maxHold": "1m",
        "objectives": { "errorRatio": -1, "p99": "fast", "p10": "1s" },
        "sptes": [],
    }));
    let expected = [
        "/rollout/sptes is not known",
        "/rollout/steps/0/hold \"0s\" is not valid",
        "/rollout/steps/1/weight does not rise: the step before has 10 %",
        "/rollout/steps/2/hold 7 is not valid",
        "/rollout/steps/2/weight does not rise: the step before has 10 %",
        "/rollout/steps/3/wait is not known",
        "/rollout/steps/3/weight 0 is not valid",
        "/rollout/steps/4 has no `weight`",
        "/rollout/steps/4/manual \"yes\" is not valid",
        "/rollout/steps/5 is no step",
        "/rollout/objectives/p10 is not known",
        "/rollout/objectives/errorRatio -1 is not valid",
        "/rollout/objectives/p99 \"fast\" is not valid",
        "/rollout/alpha 0 is not valid",
        "/rollout/beta 1 is not valid",
        "/rollout/ratio 1 is not valid",
        "/rollout/replaceBelow 200 is not valid",
        "/rollout/maxHold is not longer than the longest `hold`",
    ];
    assert_eq!(found, expected);
    assert_eq!(problems(&json!([{ "weight": 50 }])), ["/rollout do not end at 100 %"]);
    assert_eq!(problems(&json!([])), ["/rollout is no list of steps"]);
    assert_eq!(problems(&json!(7)), ["/rollout is neither a list of steps nor a map"]);
    assert_eq!(problems(&json!({})), ["/rollout has no `steps`"]);
    let many: Vec<_> = (0..51).map(|_| json!({ "weight": 1 })).collect();
    assert_eq!(problems(&json!(many)), ["/rollout has too many steps"]);
}

#[test]
fn a_step_with_too_few_people_gets_a_proposal() {
    let step = |weight| Step { weight, ..Step::ALL };
    assert_eq!(step(100).check_people(3_000), Ok(()));
    assert_eq!(step(100).check_people(500), Err(Some(600)));
    assert_eq!(step(600).check_people(500), Ok(()));
    assert_eq!(step(9_900).check_people(500), Err(Some(600)), "stable is the smaller side");
    assert_eq!(step(5_000).check_people(59), Err(None), "too few whatever the weight");
    assert_eq!(step(5_000).check_people(0), Err(None));
    assert_eq!(step(10_000).check_people(0), Ok(()), "nothing is compared");
}

fn template(rollout: &serde_json::Value, kind: &str) -> Result<Template, Vec<TemplateProblem>> {
    let labels = json!({ "app": "web" });
    let mut document = json!({ "apiVersion": "releases.portcullis.dev/v1", "kind": "Rollout",
        "metadata": { "name": "web" } });
    for (key, value) in rollout.as_object().unwrap() {
        document[key] = value.clone();
    }
    Template::parse(&json!([
        { "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
            "spec": { "selector": labels, "ports": [{ "port": 80 }] } },
        { "apiVersion": "apps/v1", "kind": kind, "metadata": { "name": "web" },
            "spec": { "image": "{{image}}", "selector": { "matchLabels": labels },
                "template": { "metadata": { "labels": labels }, "spec": {} } } },
        document,
    ]))
}

fn places(problems: Vec<TemplateProblem>) -> Vec<String> {
    problems.into_iter().filter_map(|problem| problem.pointer).collect()
}

#[test]
fn a_template_declares_where_it_is_rolled_out() {
    let steps = json!([{ "weight": 5 }, { "weight": 100 }]);
    let release = "web.1".parse().unwrap();
    let environment = |name: &str| name.parse().unwrap();
    let all = template(&json!({ "rollout": steps }), "Deployment").unwrap();
    assert_eq!(Settings::check(&all, &release), Ok(()));
    let settings = Settings::of(&all, &environment("dev")).unwrap().unwrap();
    assert_eq!(settings.steps.len(), 2);
    assert!(all.objects().all(|object| object.kind != "Rollout"), "it is not applied");
    let some = json!({ "rollout": steps, "environments": ["production"] });
    let some = template(&some, "Deployment").unwrap();
    assert!(Settings::of(&some, &environment("production")).unwrap().is_some());
    assert_eq!(Settings::of(&some, &environment("dev")), Ok(None));
}

#[test]
fn a_template_that_cannot_be_rolled_out_is_refused_with_places() {
    let release = "web.1".parse().unwrap();
    let refused =
        |rollout, kind| Settings::check(&template(&rollout, kind).unwrap(), &release).unwrap_err();
    let found = refused(json!({ "rollout": [{ "weight": 50 }] }), "Deployment");
    assert_eq!(places(found), ["/2/rollout"]);
    let found = refused(json!({ "rollout": [{ "weight": 100 }] }), "StatefulSet");
    assert!(found[0].message.contains("only those of a Deployment can run twice"), "{found:?}");
    for (rollout, place) in [
        (json!({}), "/2"),
        (json!({ "rollout": [], "environments": "production" }), "/2/environments"),
        (json!({ "rollout": [], "environments": [] }), "/2/environments"),
        (json!({ "rollout": [], "steps": [] }), "/2/steps"),
    ] {
        assert_eq!(places(template(&rollout, "Deployment").unwrap_err()), [place]);
    }
}

#[test]
fn a_query_has_an_expression_and_a_limit() {
    let parse = |query: serde_json::Value| {
        let steps = json!([{ "weight": 100 }]);
        Settings::parse(&json!({ "steps": steps, "query": query }))
    };
    let query = parse(json!({ "expr": "sum(x)", "max": 0.5 })).unwrap().query.unwrap();
    assert_eq!((query.expr.as_str(), query.max), ("sum(x)", 0.5));
    for (query, pointer) in [
        (json!("sum(x)"), "/rollout/query"),
        (json!({ "expr": "x" }), "/rollout/query"),
        (json!({ "max": 1 }), "/rollout/query"),
        (json!({ "expr": " ", "max": 1 }), "/rollout/query/expr"),
        (json!({ "expr": "x".repeat(4_097), "max": 1 }), "/rollout/query/expr"),
        (json!({ "expr": "x", "max": "much" }), "/rollout/query/max"),
        (json!({ "expr": "x", "max": 1, "url": "http://x" }), "/rollout/query/url"),
    ] {
        let problems = parse(query.clone()).unwrap_err();
        let pointers: Vec<_> = problems.iter().map(|one| one.pointer.as_deref()).collect();
        assert_eq!(pointers, [Some(pointer)], "{query}");
    }
}

#[test]
fn a_check_has_bounds_and_is_never_root() {
    let parse = |gate: serde_json::Value| {
        let steps = json!([{ "weight": 100 }]);
        Settings::parse(&json!({ "steps": steps, "gate": gate }))
    };
    let gate = parse(json!({ "image": "check:1", "args": ["--deep"], "timeout": "2m", "cpu": 1,
        "memory": "64Mi", "runAsUser": 65532 }));
    let gate = gate.unwrap().gate.unwrap();
    assert_eq!((gate.image.as_deref(), gate.timeout), (Some("check:1"), 120_000));
    assert_eq!((gate.cpu.as_str(), gate.memory.as_str()), ("1", "64Mi"));
    assert_eq!((gate.args, gate.run_as_user), (vec!["--deep".to_owned()], Some(65_532)));
    for (gate, pointer) in [
        (json!({}), "/rollout/gate"),
        (json!("curl"), "/rollout/gate"),
        (json!({ "image": "a b" }), "/rollout/gate/image"),
        (json!({ "image": "" }), "/rollout/gate/image"),
        (json!({ "command": [] }), "/rollout/gate/command"),
        (json!({ "command": "curl" }), "/rollout/gate/command"),
        (json!({ "command": ["x"], "timeout": "2h" }), "/rollout/gate/timeout"),
        (json!({ "command": ["x"], "cpu": "lots" }), "/rollout/gate/cpu"),
        (json!({ "command": ["x"], "memory": "0" }), "/rollout/gate/memory"),
        (json!({ "command": ["x"], "runAsUser": 0 }), "/rollout/gate/runAsUser"),
        (
            json!({ "command": ["x"], "serviceAccountName": "admin" }),
            "/rollout/gate/serviceAccountName",
        ),
    ] {
        let problems = parse(gate.clone()).unwrap_err();
        let pointers: Vec<_> = problems.iter().map(|one| one.pointer.as_deref()).collect();
        assert_eq!(pointers, [Some(pointer)], "{gate}");
    }
}
