//! A fake GitHub on a free port.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;

/// The requests that it received: method, target, bearer token and body of each.
type Asked = Arc<Mutex<Vec<String>>>;

async fn start(token: Value) -> (Github, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Asked::default();
    let heard = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (asked, token) = (Arc::clone(&heard), token.clone());
            let service = service_fn(move |request| {
                let (asked, token) = (Arc::clone(&asked), token.clone());
                async move { Ok::<_, Infallible>(answer(request, &asked, token).await) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    let login = json!({
        "issuer": "github", "clientId": "app",
        "github": { "apiUrl": format!("{url}/api/v3/"), "url": format!("{url}/") },
    });
    let login: LoginSettings = serde_json::from_value(login).unwrap();
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "shh\n").unwrap();
    let registration =
        Registration { id: "app".to_owned(), secret_file: Some(secret.keep().unwrap().1) };
    (Github::new(&login, registration).unwrap(), asked)
}

async fn answer(request: Request<Incoming>, asked: &Asked, token: Value) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let header = |name| {
        head.headers.get(name).map_or("", |value: &http::HeaderValue| value.to_str().unwrap())
    };
    assert!(header("user-agent").starts_with("portcullis/"), "GitHub requires a user agent");
    asked.lock().unwrap().push(format!(
        "{} {} {} {}",
        head.method,
        head.uri,
        header("authorization"),
        String::from_utf8_lossy(&body)
    ));
    let organisation = |number: usize| json!({"login": format!("Org-{number}"), "id": number});
    let answer = match head.uri.to_string().as_str() {
        "/login/oauth/access_token" => token,
        "/api/v3/user" if header("authorization") == "Bearer of-a-bot" => {
            json!({"id": 8, "login": "build[bot]", "type": "Bot"})
        }
        "/api/v3/user" => {
            json!({"id": 7, "login": "Ann", "type": "User", "email": "public@example.com"})
        }
        "/api/v3/user/emails" => json!([
            {"email": "other@example.com", "primary": false, "verified": true, "visibility": null},
            {"email": "ann@example.com", "primary": true, "verified": true, "visibility": "private"},
        ]),
        "/api/v3/user/orgs?per_page=100&page=1" => (0..100).map(organisation).collect(),
        "/api/v3/user/orgs?per_page=100&page=2" => json!([organisation(100)]),
        "/api/v3/user/teams?per_page=100&page=1" => {
            json!([{"slug": "Ops", "name": "Our ops", "organization": organisation(0)}])
        }
        other => panic!("{other}"),
    };
    Response::new(Full::from(answer.to_string()))
}

fn returned() -> AuthorizationResponse<'static> {
    AuthorizationResponse {
        redirect_uri: "https://login.example.com/callback",
        code: "c",
        issuer: None,
        nonce: "n",
        verifier: "v",
    }
}

#[tokio::test]
async fn organizations_and_teams_are_groups_in_lower_case() {
    let (github, asked) =
        start(json!({"access_token": "t", "token_type": "bearer", "scope": "read:org,user:email"}))
            .await;
    let person = github.finish(&returned()).await.unwrap();
    let user = person.user;
    assert_eq!(
        (&*user.name, &*user.subject, user.email.as_deref()),
        ("github:ann", "7", Some("ann@example.com"))
    );
    assert_eq!(
        (user.groups.len(), &*user.groups[100], &*user.groups[101]),
        (102, "github:org-100", "github:org-0/ops")
    );
    let asked = asked.lock().unwrap().clone();
    let form = "client_id=app&client_secret=shh&code=c&redirect_uri=https%3A%2F%2Flogin.example.\
                com%2Fcallback&code_verifier=v";
    assert_eq!(asked[0], format!("POST /login/oauth/access_token  {form}"));
    assert!(asked[1..].iter().all(|asked| asked.contains(" Bearer t ")), "{asked:?}");
}

#[tokio::test]
async fn a_bot_is_not_a_user() {
    let (github, asked) = start(json!({"access_token": "of-a-bot"})).await;
    let error = github.finish(&returned()).await.err().unwrap();
    assert!(matches!(error, ProviderError::NoUser(_)), "{error}");
    assert_eq!(asked.lock().unwrap().len(), 2, "no further requests about it");
}

#[tokio::test]
async fn an_error_with_status_200_is_an_error() {
    let (github, asked) = start(
        json!({"error": "bad_verification_code", "error_description": "The code is incorrect"}),
    )
    .await;
    let error = github.finish(&returned()).await.err().unwrap();
    assert!(
        matches!(&error, ProviderError::Refused(code) if &**code == "bad_verification_code"),
        "{error}"
    );
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn the_authorization_request_uses_pkce() {
    let (github, _) = start(json!({})).await;
    let sent = AuthorizationRequest {
        redirect_uri: "https://login.example.com/callback",
        state: "s&t",
        nonce: "n",
        challenge: "c",
    };
    let url = github.begin(&sent);
    assert!(
        url.contains(
            "/login/oauth/authorize?client_id=app&redirect_uri=https%3A%2F%2Flogin.example.com%\
             2Fcallback&"
        ),
        "{url}"
    );
    assert!(
        url.ends_with(
            "&scope=read%3Aorg+user%3Aemail&state=s%26t&code_challenge=c&\
             code_challenge_method=S256"
        ),
        "{url}"
    );
}
