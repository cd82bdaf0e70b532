//! Registries that misbehave, over TLS.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::*;
use crate::api::Listener;
use crate::settings::TlsSettings;

const IMAGE: &str = r#"{"schemaVersion":2,"layers":[],
    "config":{"mediaType":"application/vnd.oci.image.config.v1+json"}}"#;

/// A server on loopback, and the requests that it received: path and `Authorization`.
pub(crate) struct Server {
    folder: TempDir,
    pub(crate) host: String,
    heard: Arc<Mutex<Vec<(String, String)>>>,
}

// === impl Server ===

impl Server {
    /// Starts a server that answers all requests by `answer`, from path and `Authorization`.
    pub(crate) async fn start(
        answer: impl Fn(&str, &str) -> Response + Clone + Send + Sync + 'static,
    ) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&heard);
        let router = Router::new().fallback(move |request: Request| async move {
            let authorization = request.headers().get(header::AUTHORIZATION);
            let authorization = authorization.and_then(|value| value.to_str().ok());
            let (path, authorization) =
                (request.uri().to_string(), authorization.unwrap_or_default().to_owned());
            record.lock().unwrap().push((path.clone(), authorization.clone()));
            answer(&path, &authorization)
        });
        Self { heard, ..Self::serve(router).await }
    }

    /// Starts one that answers by these routes; what it hears is not recorded.
    pub(crate) async fn serve(router: Router) -> Self {
        Self::serve_at([127, 0, 0, 1].into(), router).await
    }

    /// The same, at an address of this machine.
    pub(crate) async fn serve_at(address: IpAddr, router: Router) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let names = vec![address.to_string()];
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("tls.crt"), certificate.pem()).unwrap();
        std::fs::write(path("tls.key"), key.serialize_pem()).unwrap();
        let auths = r#"{"auths":{"HOST":{"username":"ci","password":"secret"}}}"#;
        let tls = TlsSettings { certificate: path("tls.crt"), key: path("tls.key") };
        let listener = Listener::bind((address, 0).into(), Some(&tls)).await.unwrap();
        let host = listener.address().unwrap().to_string();
        std::fs::write(path("auths.json"), auths.replace("HOST", &host)).unwrap();
        tokio::spawn(listener.serve(router));
        Self { folder, host, heard: Arc::default() }
    }

    /// The PEM file of its certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("tls.crt")
    }

    pub(crate) fn registries(&self) -> Registries {
        let settings = RegistrySettings {
            host: self.host.clone(),
            credentials: Some(self.folder.path().join("auths.json")),
            certificate_authorities: Some(self.folder.path().join("tls.crt")),
            token_server: None,
        };
        Registries::new(&[settings]).unwrap()
    }

    /// Pushes an image with one blob of ten octets.
    async fn push(&self) -> Result<String, String> {
        let path = self.folder.path().join("blob");
        std::fs::write(&path, "0123456789").unwrap();
        let blob = Blob { digest: "sha256:1".to_owned(), size: 10, path };
        let digest = format!("sha256:{}", "0".repeat(64));
        let upload = Upload { blobs: vec![blob], manifest: IMAGE.into(), digest };
        let image = format!("{}/web:1", self.host);
        self.registries().push(&image, &upload).await.map_err(|error| error.to_string())
    }

    async fn resolve(&self, token_server: Option<&str>) -> Result<String, String> {
        let settings = RegistrySettings {
            host: self.host.clone(),
            credentials: Some(self.folder.path().join("auths.json")),
            certificate_authorities: Some(self.folder.path().join("tls.crt")),
            token_server: token_server.map(str::to_owned),
        };
        let registries = Registries::new(&[settings]).unwrap();
        let image = format!("{}/web:1", self.host);
        registries.resolve(&image).await.map_err(|error| error.to_string())
    }

    fn heard(&self) -> Vec<(String, String)> {
        self.heard.lock().unwrap().clone()
    }
}

pub(crate) fn image() -> Response {
    ([(header::CONTENT_TYPE, image_manifest::MEDIA_TYPES[1])], IMAGE).into_response()
}

fn challenge(text: String) -> Response {
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, text)]).into_response()
}

#[tokio::test]
async fn a_registry_cannot_send_the_builder_or_its_password_elsewhere() {
    let elsewhere = Server::start(|_, _| image()).await;
    let target = elsewhere.host.clone();
    let redirect = format!("https://{target}/v2/web/manifests/1");
    let redirecting = Server::start(move |_, _| {
        (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, redirect.clone())]).into_response()
    })
    .await;
    let error = redirecting.resolve(None).await.unwrap_err();
    assert!(error.contains("redirects are not followed"), "{error}");
    for realm in [
        format!("https://{target}/token"),
        format!("http://{target}/token"),
        format!("https://ci:x@{target}/token"),
        "http://169.254.169.254/latest".to_owned(),
        "file:///etc/passwd".to_owned(),
    ] {
        let registry =
            Server::start(move |_, _| challenge(format!("Bearer realm=\"{realm}\""))).await;
        let error = registry.resolve(None).await.unwrap_err();
        assert!(error.contains("token server"), "{error}");
        assert_eq!(registry.heard().len(), 1);
        assert_eq!(registry.heard()[0].1, "", "no password without a challenge");
    }
    assert!(elsewhere.heard().is_empty());
}

#[tokio::test]
async fn a_token_of_the_registry_is_asked_for_with_the_password_and_used() {
    let tokens = Server::start(|_, authorization| match authorization {
        "" => StatusCode::UNAUTHORIZED.into_response(),
        _ => r#"{"token":"t"}"#.into_response(),
    })
    .await;
    let own = Arc::new(Mutex::new(String::new()));
    let realm = Arc::clone(&own);
    let registry = Server::start(move |path, authorization| match authorization {
        "Bearer t" => image(),
        _ if path.starts_with("/token?service=r&scope=repository%3Aweb%3Apull") => {
            r#"{"access_token":"t"}"#.into_response()
        }
        _ => challenge(format!("Bearer realm=\"{}\",service=\"r\"", realm.lock().unwrap())),
    })
    .await;
    *own.lock().unwrap() = format!("https://{}/token", registry.host);
    let resolved = registry.resolve(None).await.unwrap();
    assert!(resolved.starts_with(&format!("{}/web@sha256:", registry.host)), "{resolved}");
    assert_eq!(registry.heard()[1].1, "Basic Y2k6c2VjcmV0");
    *own.lock().unwrap() = format!("https://{}/token", tokens.host);
    assert!(registry.resolve(Some("elsewhere.test")).await.is_err());
    assert!(tokens.heard().is_empty());
    // Its certificate is not one that the registry's client trusts: the request is refused there.
    let error = registry.resolve(Some(&tokens.host)).await.unwrap_err();
    assert!(error.contains("certificate"), "{error}");
}

#[tokio::test]
async fn what_a_registry_sends_is_bounded_and_shown_to_no_caller() {
    for (body, expected) in [
        ("x".repeat(2 << 20), "more than 1048576 bytes"),
        ("internal page: secret".to_owned(), "by its Content-Type"),
    ] {
        let registry = Server::start(move |_, _| body.clone().into_response()).await;
        let error = registry.resolve(None).await.unwrap_err();
        assert!(error.contains(expected) && !error.contains("secret"), "{error}");
    }
    let registry = Server::start(|_, _| {
        (StatusCode::INTERNAL_SERVER_ERROR, "internal page: secret").into_response()
    })
    .await;
    let error = registry.resolve(None).await.unwrap_err();
    assert!(error.ends_with("it returned status 500"), "{error}");
}

#[tokio::test]
async fn only_configured_registries_are_contacted() {
    let registries = Registries(HashMap::new());
    for (image, expected) in [
        ("registry.test/web:1", "the registry registry.test is not one of"),
        ("web:1", "is not an image"),
        ("docker.io/web", "the registry docker.io is not one of"),
        ("http://169.254.169.254/latest", "is not an image"),
        ("", "is not an image"),
    ] {
        let error = registries.resolve(image).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{image}: {error}");
    }
}

#[tokio::test]
async fn an_upload_goes_to_the_registry_alone() {
    let elsewhere = Server::start(|_, _| StatusCode::CREATED.into_response()).await;
    let other = elsewhere.host.clone();
    for location in [
        format!("https://{other}/v2/web/blobs/uploads/1"),
        format!("//{other}/upload"),
        "http://169.254.169.254/latest".to_owned(),
    ] {
        let registry = Server::start(move |path, authorization| match (path, authorization) {
            (_, "") => challenge("Basic".to_owned()),
            (path, _) if path.ends_with("/blobs/uploads/") => {
                (StatusCode::ACCEPTED, [(header::LOCATION, location.clone())]).into_response()
            }
            _ => StatusCode::NOT_FOUND.into_response(),
        })
        .await;
        let error = registry.push().await.unwrap_err();
        assert!(error.contains("redirects uploads to another host"), "{error}");
    }
    assert!(elsewhere.heard().is_empty());
}

#[tokio::test]
async fn an_image_is_pushed_only_if_the_registry_has_what_was_sent() {
    // It has the blob, accepts the manifest, and then names another one by the tag.
    let registry = Server::start(|path, _| match path {
        path if path.contains("/manifests/") => image(),
        _ => StatusCode::OK.into_response(),
    })
    .await;
    let error = registry.push().await.unwrap_err();
    assert!(error.contains("another digest than what was sent"), "{error}");
    // It fails in the middle.
    let registry = Server::start(|path, _| match path {
        path if path.ends_with("/blobs/uploads/") => {
            (StatusCode::ACCEPTED, [(header::LOCATION, "/v2/web/blobs/uploads/1?state=x")])
                .into_response()
        }
        path if path.contains("/blobs/uploads/1") => {
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    })
    .await;
    let error = registry.push().await.unwrap_err();
    assert!(error.ends_with("cannot be used: it returned status 503"), "{error}");
    assert!(!registry.heard().iter().any(|(path, _)| path.contains("/manifests/")));
}

#[tokio::test]
async fn what_a_registry_rejects_for_itself_is_not_what_it_cannot_do_now() {
    for (status, is_rejected) in [(400, true), (403, true), (413, true), (408, false), (429, false)]
    {
        let status = StatusCode::from_u16(status).unwrap();
        let registry = Server::start(move |_, _| status.into_response()).await;
        let image = format!("{}/web:1", registry.host);
        let error = registry.registries().resolve(&image).await.unwrap_err();
        assert_eq!(matches!(error, ImageError::Rejected(..)), is_rejected, "{error}");
    }
}
