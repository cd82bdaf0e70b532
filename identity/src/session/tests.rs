use portcullis_config::model::Origin;
use portcullis_config::snapshot::access::{RevokedSessions, SessionKey};

use super::testing::{at, session, settings, user};
use super::*;

fn sessions() -> Sessions {
    Sessions::new(&settings(), None).unwrap()
}

#[test]
fn a_session_expires_after_its_idle_time_and_its_absolute_lifetime() {
    let sessions = sessions();
    let mut session = sessions.begin(user("ann"), None, at(5000)).unwrap();
    assert!(sessions.is_valid(&session, at(5099)));
    assert!(!sessions.is_valid(&session, at(5100)));
    assert_eq!(sessions.until(&session), at(5100));
    assert_eq!(sessions.renewed(&session, at(5009)), None);
    session = sessions.renewed(&session, at(5010)).unwrap();
    assert!(sessions.is_valid(&session, at(5109)));
    session.renewed_at = 5999;
    assert!(sessions.is_valid(&session, at(5999)));
    assert!(!sessions.is_valid(&session, at(6000)));
    assert_eq!(sessions.until(&session), at(6000));
}

#[test]
fn a_cookie_opens_while_its_session_is_valid() {
    let sessions = sessions();
    let session = sessions.begin(user("ann"), None, at(5000)).unwrap();
    let value = sessions.seal(Purpose::Session, "shop", &session, at(5000)).unwrap();
    assert_eq!(sessions.open(Purpose::Session, "shop", &value, at(5050)), Some(session.clone()));
    assert_eq!(sessions.open(Purpose::Session, "crm", &value, at(5050)), None);
    assert_eq!(sessions.open(Purpose::Session, "shop", &value, at(5100)), None);
    sessions.revocations.revoke(Revoked::Session(&session.id), at(5050));
    assert_eq!(sessions.open(Purpose::Session, "shop", &value, at(5050)), None);
}

#[test]
fn a_session_of_a_provider_that_logs_nobody_in_any_more_is_rejected() {
    let sessions = sessions();
    let former = User { issuer: "former".into(), ..user("ann") };
    let session = sessions.begin(former, None, at(5000)).unwrap();
    let value = sessions.seal(Purpose::Session, "shop", &session, at(5000)).unwrap();
    assert_eq!(sessions.open(Purpose::Session, "shop", &value, at(5001)), None);
}

#[test]
fn groups_that_do_not_fit_into_a_cookie_are_left_out() {
    let sessions = sessions();
    let mut ann = user("ann");
    ann.groups = (0..1000).map(|number| format!("group-\"{number}\"").into_boxed_str()).collect();
    let begin = |user: &User| sessions.begin(user.clone(), None, at(5000)).unwrap();
    let session = begin(&ann).fitted(|groups| groups.reverse()).unwrap();
    assert!((10..1000).contains(&session.user.groups.len()));
    assert_eq!(session.user.groups.first(), ann.groups.last(), "the important ones are kept");
    let value = sessions.seal(Purpose::Session, &"a".repeat(253), &session, at(5000)).unwrap();
    assert!((3000..3584).contains(&value.len()), "{}", value.len());
    let again = session.clone().fitted(|_| unreachable!("all fit")).unwrap();
    assert_eq!(again, session);
    ann.name = "a".repeat(MAX_OCTETS).into();
    assert!(begin(&ann).fitted(|_| ()).is_err());
}

#[test]
fn a_session_is_trusted_for_a_time_after_the_provider_confirmed_its_user() {
    let settings = serde_json::json!({
        "issuer": "corp", "clientId": "portcullis", "revalidateWithin": "1h", "staleIfError": "3h",
    });
    let sessions = Sessions::new(&serde_json::from_value(settings).unwrap(), None).unwrap();
    let session = sessions.begin(user("ann"), None, at(0)).unwrap();
    let holds = |session: &Session, now| sessions.is_trusted(session, at(now));
    assert!(holds(&session, 3599) && !holds(&session, 3600));
    assert_eq!(sessions.accepted_until(&session), at(3600), "streams end then too");
    assert!(sessions.is_valid(&session, at(3600)), "but the portal knows it");
    let away = |at| Session { unavailable_at: Some(at), ..session.clone() };
    assert!(holds(&away(3600), 7199) && !holds(&away(3600), 7200));
    assert!(holds(&away(14_000), 14_399) && !holds(&away(14_000), 14_400), "limited");
    let used = Session { renewed_at: 3000, asked_at: 3000, ..session };
    assert!(!holds(&used, 3600), "use does not extend it");
}

#[test]
fn a_shorter_lifetime_in_the_settings_applies_to_existing_sessions() {
    let sessions = sessions();
    let session = Session { expires_at: 9000, renewed_at: 5990, ..session("ann", 5000) };
    assert!(sessions.is_valid(&session, at(5999)));
    assert!(!sessions.is_valid(&session, at(6000)));
}

#[test]
fn revocations_are_loaded_before_the_keys_of_the_same_snapshot() {
    let (here, there) = (sessions(), sessions());
    let key = |octet| SessionKey {
        origin: Origin::default(),
        key: vec![octet; 32].into(),
        created: None,
    };
    there.load(&Credentials { session_keys: vec![key(1)], ..Credentials::default() }, at(5000));
    let session = there.begin(user("ann"), None, at(5000)).unwrap();
    let value = there.seal(Purpose::Session, "shop", &session, at(5000)).unwrap();
    let revocations = [there.revocations.revoke(Revoked::Session(&session.id), at(5010))].into();
    let revoked_sessions = vec![RevokedSessions {
        origin: Origin::default(),
        revocations,
        has_invalid_entries: false,
    }];
    assert_eq!(here.open(Purpose::Session, "shop", &value, at(5020)), None);
    here.load(&Credentials { session_keys: vec![key(1)], ..Credentials::default() }, at(5020));
    assert!(here.open(Purpose::Session, "shop", &value, at(5020)).is_some());
    here.load(
        &Credentials { session_keys: vec![key(1)], revoked_sessions, ..Credentials::default() },
        at(5020),
    );
    assert_eq!(here.open(Purpose::Session, "shop", &value, at(5020)), None);
}

#[test]
fn debug_output_hides_the_session_identifier() {
    let session = session("ann", 0);
    assert!(!format!("{session:?}").contains(session.id.expose()));
}
