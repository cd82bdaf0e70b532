use super::*;

/// The portal of `apps.example.com`, with HTTPS on port 8443.
pub(super) fn place() -> Place {
    let mut settings = crate::session::tests::settings();
    settings.port = 8443;
    Place::new("apps.example.com", &settings)
}
