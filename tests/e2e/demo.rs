//! The demo: its printed commands work, traffic shifts as described, and nothing is left
//! behind.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::harness::soon;

fn command(folder: &tempfile::TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.arg("demo").env("TMPDIR", folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
    command
}

/// All lines up to the one that begins with `last`.
async fn lines_until(demo: &mut Child, last: &str) -> Vec<String> {
    let mut output = BufReader::new(demo.stdout.take().unwrap()).lines();
    let mut lines = Vec::new();
    let read = async {
        while let Some(line) = output.next_line().await.unwrap() {
            let end = line.starts_with(last);
            lines.push(line);
            if end {
                return;
            }
        }
        panic!("the demo ended before it said `{last}`: {lines:#?}");
    };
    soon("the demo tells what it does", read).await;
    // Its later output needs a reader.
    tokio::spawn(async move { while let Ok(Some(_)) = output.next_line().await {} });
    lines
}

async fn paste(line: &str) -> String {
    let output = soon(line, Command::new("sh").args(["-c", line]).stdin(Stdio::null()).output())
        .await
        .unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn every_command_that_the_demo_prints_works() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = command(&folder).spawn().unwrap();
    let lines = lines_until(&mut demo, "Now try it").await;
    let calls: Vec<(&String, &String)> = lines
        .iter()
        .zip(lines.iter().skip(1))
        .filter(|(_, line)| line.contains("curl --"))
        .collect();
    assert!(calls.len() >= 10, "{lines:#?}");
    let expected = [
        ("over HTTP/2", "Hello from web-"),
        ("in production", "Hello from web-live-"),
        ("as the pod receives it", "\"octets\":5"),
        ("events", "data: event 2"),
        ("gRPC", "calls-1"),
        ("WebSocket", "Hello from chat-1"),
        ("anyone else gets", "404"),
        ("for applications: a client key", "Hello from reports-1"),
        ("a token of Ann", "Hello from back-office-1"),
        ("token of Eve", "404 Not Found"),
        ("redirected", "308"),
        ("the routing table", "web--staging.portcullis.localhost"),
    ];
    for (title, answer) in expected {
        let (_, line) = calls
            .iter()
            .find(|(above, _)| above.contains(title))
            .unwrap_or_else(|| panic!("no line: {title}"));
        let said = paste(line).await;
        assert!(said.contains(answer), "{line}\n{said}");
    }
    for (_, line) in &calls {
        paste(line).await;
    }

    traffic_moves_to_the_canary_and_ann_stays(&lines).await;
    ann_logs_in(&lines, folder.path()).await;

    let id = demo.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().await.unwrap().success());
    assert!(soon("the demo ends", demo.wait()).await.unwrap().success());
    let left: Vec<PathBuf> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_kept_folder_has_the_manifests_that_were_changed() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("kept");
    let manifest = kept.join("manifests/production.yaml");
    for run in ["first", "second"] {
        let mut demo = command(&folder).arg("--folder").arg(&kept).spawn().unwrap();
        lines_until(&mut demo, "Requests to web in staging").await;
        let text = std::fs::read_to_string(&manifest).unwrap();
        assert_eq!(text.contains("# changed"), run == "second");
        std::fs::write(&manifest, text + "# changed\n").unwrap();
        let id = demo.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
        assert!(soon("the demo ends", demo.wait()).await.unwrap().success());
        assert!(manifest.exists(), "it is kept");
    }
}

/// Follows the lines about the canary: counts follow the weight, and one person has one variant.
async fn traffic_moves_to_the_canary_and_ann_stays(lines: &[String]) {
    let command = |title: &str| {
        let position = lines.iter().position(|line| line.contains(title));
        lines[position.unwrap_or_else(|| panic!("no line: {title}")) + 1].clone()
    };
    let count = |said: &str, canary: bool| -> u32 {
        let lines = said.lines().filter(|line| line.contains("canary") == canary);
        lines.map(|line| line.split_whitespace().next().unwrap().parse::<u32>().unwrap()).sum()
    };
    let answers = command("who answers 20 callers");
    assert_eq!(count(&paste(&answers).await, true), 0, "before");
    let said = paste(&command("half of the callers")).await;
    assert!(said.contains("web-canary  50 %    0 %"), "{said}");
    let mut said = String::new();
    // Workers deal on their own, and to other clients, too.
    for _ in 0..3 {
        said += &paste(&answers).await;
    }
    assert!((15..=45).contains(&count(&said, true)), "{said}");
    assert_eq!(count(&said, true) + count(&said, false), 60, "{said}");
    let ann = paste(&command("the same variant for Ann")).await;
    let is_canary = count(&ann, true) > 0;
    assert_eq!(count(&ann, is_canary), 20, "{ann}");
    let why = paste(&command("their bucket")).await;
    assert!(
        why.contains("the user is in bucket") && why.contains("salt `shop-staging/web`"),
        "{why}"
    );
    assert_eq!(why.contains("web-canary: the user"), is_canary, "{why}");
    let weights = paste(&command("the weights, and the requests")).await;
    assert!(weights.contains("web-canary  50 %"), "{weights}");
    paste(&command("back to the stable variant")).await;
    assert_eq!(count(&paste(&answers).await, true), 0, "after");
}

/// Logs in like a browser: from a deep link to the provider's page, to the link of a user there,
/// and back.
async fn ann_logs_in(lines: &[String], folder: &Path) {
    let word = |start: &str| {
        let words = lines.iter().flat_map(|line| line.split_whitespace());
        words
            .map(|word| word.trim_matches(['(', ',', '\'']))
            .find(|word| word.contains(start))
            .unwrap_or_else(|| panic!("no {start}"))
            .to_owned()
    };
    let (portal, authority) = (word("https://login."), word("ca.pem"));
    let port = portal.trim_end_matches('/').rsplit(':').next().unwrap();
    let jar = folder.join("portcullis-demo-cookies");
    let jar = jar.display();
    let curl = format!(
        "curl --silent --location --cookie {jar} --cookie-jar {jar} --cacert {authority} \
         --resolve '*:{port}:127.0.0.1'"
    );
    let service = format!("https://back-office--production.portcullis.localhost:{port}");
    let page = paste(&format!(
        "{curl} --write-out '%{{url_effective}}' \
         '{service}/.well-known/portcullis/login?to=/whoami'"
    ))
    .await;
    let provider = page.rsplit("http://").next().and_then(|rest| rest.split('/').next()).unwrap();
    let link = page
        .split("href=\"")
        .find(|link| link.contains("person=ann\""))
        .and_then(|link| link.split('"').next())
        .unwrap();
    assert_eq!(
        paste(&format!("{curl} 'http://{provider}{}'", link.replace("&amp;", "&"))).await,
        "back-office-1\n"
    );
    let home = paste(&format!("{curl} '{portal}'")).await;
    assert!(home.contains("ann@shop.example") && home.contains("<strong>back-office"), "{home}");
    std::fs::remove_file(folder.join("portcullis-demo-cookies")).unwrap();
}

#[tokio::test]
async fn traffic_shifts_as_the_demo_describes() {
    let folder = tempfile::tempdir().unwrap();
    let output = soon("the play ends", command(&folder).arg("--once").output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let moved = said.lines().find(|line| line.contains("traffic has moved")).unwrap();
    assert!(
        moved.contains("web-1") && !moved.contains("web-2") && !moved.contains("web-3"),
        "{said}"
    );
    assert!(said.contains(" 0 failed"), "{said}");
}
