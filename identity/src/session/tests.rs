use portcullis_config::model::Origin;
use portcullis_config::snapshot::access::{EndedSessions, SessionKey};

use super::testing::{at, session, settings, user};
use super::*;

fn sessions() -> Sessions {
    Sessions::new(&settings(), None).unwrap()
}

#[test]
fn a_session_ends_when_it_is_not_used_and_when_its_time_is_over() {
    let sessions = sessions();
    let mut session = sessions.begin(user("ann"), None, at(5000)).unwrap();
    assert!(sessions.holds(&session, at(5099)));
    assert!(!sessions.holds(&session, at(5100)));
    assert_eq!(sessions.until(&session), at(5100));
    assert_eq!(sessions.renewed(&session, at(5009)), None);
    session = sessions.renewed(&session, at(5010)).unwrap();
    assert!(sessions.holds(&session, at(5109)));
    session.renewed_at = 5999;
    assert!(sessions.holds(&session, at(5999)));
    assert!(!sessions.holds(&session, at(6000)));
    assert_eq!(sessions.until(&session), at(6000));
}

#[test]
fn a_cookie_opens_while_its_session_holds() {
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
fn a_session_of_many_groups_fits_into_a_cookie_with_some_of_them() {
    let sessions = sessions();
    let mut ann = user("ann");
    ann.groups = (0..1000).map(|number| format!("group-\"{number}\"").into_boxed_str()).collect();
    let session = sessions.begin(ann.clone(), None, at(5000)).unwrap();
    assert!((10..1000).contains(&session.user.groups.len()));
    assert_eq!(session.user.groups.first(), ann.groups.first());
    let value = sessions.seal(Purpose::Session, &"a".repeat(253), &session, at(5000)).unwrap();
    assert!((3000..3584).contains(&value.len()), "{}", value.len());
    ann.name = "a".repeat(MAX_OCTETS).into();
    assert!(sessions.begin(ann, None, at(5000)).is_err());
}

#[test]
fn a_session_ends_sooner_where_the_settings_allow_less_by_now() {
    let sessions = sessions();
    let session = Session { expires_at: 9000, renewed_at: 5990, ..session("ann", 5000) };
    assert!(sessions.holds(&session, at(5999)));
    assert!(!sessions.holds(&session, at(6000)));
}

#[test]
fn what_others_ended_is_known_no_later_than_the_key_that_opens_it() {
    let (here, there) = (sessions(), sessions());
    let key = |octet| SessionKey {
        origin: Origin::default(),
        key: vec![octet; 32].into(),
        created: None,
    };
    there.learn(&Credentials { session_keys: vec![key(1)], ..Credentials::default() }, at(5000));
    let session = there.begin(user("ann"), None, at(5000)).unwrap();
    let value = there.seal(Purpose::Session, "shop", &session, at(5000)).unwrap();
    let ended = [there.revocations.revoke(Revoked::Session(&session.id), at(5010))].into();
    let ended_sessions =
        vec![EndedSessions { origin: Origin::default(), ended, is_garbled: false }];
    assert_eq!(here.open(Purpose::Session, "shop", &value, at(5020)), None);
    here.learn(&Credentials { session_keys: vec![key(1)], ..Credentials::default() }, at(5020));
    assert!(here.open(Purpose::Session, "shop", &value, at(5020)).is_some());
    here.learn(
        &Credentials { session_keys: vec![key(1)], ended_sessions, ..Credentials::default() },
        at(5020),
    );
    assert_eq!(here.open(Purpose::Session, "shop", &value, at(5020)), None);
}

#[test]
fn an_identifier_does_not_print() {
    let session = session("ann", 0);
    assert!(!format!("{session:?}").contains(session.id.expose()));
}
