//! Credentials that must be rejected.

use serde_json::{Value, json};

use super::issuer::{Issuer, encoded, now};

/// A bad credential: its defect, and the header fields that carry it.
pub(super) type Bad = (String, Vec<(&'static str, String)>);

/// All of them. `issuer` is known to the gateway, `other` too, but for another environment;
/// `stranger` is not. `key` is a client key that is well-formed but unknown, `expired` one whose
/// has expired.
pub(super) fn all(
    issuer: &Issuer,
    other: &Issuer,
    stranger: &Issuer,
    key: &str,
    expired: &str,
) -> Vec<Bad> {
    let mut bad: Vec<Bad> = Vec::new();
    let mut bearer = |what: String, token: String| {
        bad.push((what, vec![("authorization", format!("Bearer {token}"))]))
    };
    for (what, token) in headers(issuer)
        .into_iter()
        .chain(claims(issuer))
        .chain(structures(issuer))
        .chain(signers(issuer, other, stranger))
    {
        bearer(what, token);
    }
    bad.extend(keys(key, expired));
    bad.extend(carriers(issuer, key));
    bad
}

fn headers(issuer: &Issuer) -> Vec<(String, String)> {
    let with = |name: &str, value: Value| {
        let mut header = issuer.header();
        header[name] = value;
        (format!("the header {name}: {}", header[name]), issuer.token(&header, &issuer.claims()))
    };
    let mut bad = Vec::new();
    for alg in [
        "none", "None", "NONE", "nOnE", "", "HS256", "HS384", "HS512", "RS256", "PS256", "ES384",
        "ES512", "EdDSA", "es256", "ES256 ", "ES256K", "dir",
    ] {
        bad.push(with("alg", json!(alg)));
    }
    for alg in [json!(["ES256"]), json!({"ES256": 1}), json!(256), json!(true), Value::Null] {
        bad.push(with("alg", alg));
    }
    for kid in [
        "",
        "unknown",
        "../../../../dev/null",
        "' OR '1'='1",
        "key\u{0}",
        "https://evil.example/keys",
    ] {
        bad.push(with("kid", json!(kid)));
    }
    for kid in [json!(1), json!(["key"]), json!({"kid": "key"})] {
        bad.push(with("kid", kid));
    }
    for typ in [
        json!("logout+jwt"),
        json!("dpop+jwt"),
        json!("secevent+jwt"),
        json!("application/logout+jwt"),
        json!("JWE"),
        json!(""),
        json!(1),
    ] {
        bad.push(with("typ", typ));
    }
    for crit in [json!(["exp"]), json!(["b64"]), json!([]), json!("exp"), Value::Null] {
        bad.push(with("crit", crit));
    }
    for algorithm in ["HS256", "HS384", "HS512"] {
        let tokens = issuer.confused(algorithm).into_iter().enumerate();
        bad.extend(tokens.map(|(form, token)| {
            (format!("{algorithm} keyed with the public key, form {form}"), token)
        }));
    }
    bad
}

fn claims(issuer: &Issuer) -> Vec<(String, String)> {
    let with = |name: &str, value: Value| {
        let mut claims = issuer.claims();
        claims[name] = value;
        (format!("the claim {name}: {}", claims[name]), issuer.token(&issuer.header(), &claims))
    };
    let without = |name: &str| {
        let mut claims = issuer.claims();
        claims.as_object_mut().expect("an object").remove(name);
        (format!("no claim {name}"), issuer.token(&issuer.header(), &claims))
    };
    let mut bad: Vec<_> =
        ["exp", "aud", "iss", "sub", "email", "email_verified"].map(without).into();
    let far = now() + 9000;
    for exp in [
        json!(now() - 61),
        json!(0),
        json!(-1),
        json!(far.to_string()),
        json!(""),
        json!(true),
        json!([far]),
        json!({"at": far}),
        json!(1e300),
        Value::Null,
    ] {
        bad.push(with("exp", exp));
    }
    for nbf in [json!(far), json!("0"), json!([0]), json!(true), Value::Null] {
        bad.push(with("nbf", nbf));
    }
    for iat in [json!(far), json!("0")] {
        bad.push(with("iat", iat));
    }
    for aud in [
        json!("other"),
        json!("Portcullis"),
        json!("portcullis "),
        json!(""),
        json!([]),
        json!(["other"]),
        json!(["portcullis", 1]),
        json!([["portcullis"]]),
        json!({"portcullis": "portcullis"}),
        json!("other portcullis"),
        json!(true),
        Value::Null,
    ] {
        bad.push(with("aud", aud));
    }
    let iss = issuer.name();
    for iss in [
        json!(format!("{iss}/")),
        json!(format!("{iss}.evil.example")),
        json!(iss.to_uppercase()),
        json!(format!(" {iss}")),
        json!([iss]),
        json!(""),
        json!("*"),
        Value::Null,
    ] {
        bad.push(with("iss", iss));
    }
    for sub in [json!(""), json!(1001), json!(["1001"]), Value::Null] {
        bad.push(with("sub", sub));
    }
    for verified in [json!(false), json!("true"), json!(1), Value::Null] {
        bad.push(with("email_verified", verified));
    }
    for email in [
        "ann@example.org",
        "ann@example.com.evil.example",
        "ann@evil.example\u{0}@example.com ",
        "@example.comx",
        "",
    ] {
        bad.push(with("email", json!(email)));
    }
    let logout = "http://schemas.openid.net/event/backchannel-logout";
    for events in [json!({logout: {}}), json!({"urn:example:event": {}}), json!({}), Value::Null] {
        bad.push(with("events", events));
    }
    for typ in ["Refresh", "Offline", "Logout", "Serialized-ID", "", "refresh+jwt"] {
        bad.push(with("typ", json!(typ)));
    }
    for cnf in [json!({"jkt": encoded([1; 32])}), json!({"x5t#S256": encoded([1; 32])}), json!({})]
    {
        bad.push(with("cnf", cnf));
    }
    for (name, value) in [
        ("toe", json!(now())),
        ("token_use", json!("refresh")),
        ("token_type", json!("refresh")),
        ("gty", json!("client-credentials")),
        ("idtyp", json!("app")),
        ("preferred_username", json!("service-account-shop")),
        ("sub", json!("shop")),
        ("sub", json!("1001@clients")),
        ("cid", json!("1001")),
        ("kubernetes.io", json!({"namespace": "shop"})),
    ] {
        bad.push(with(name, value));
    }
    for azp in
        [json!("crm"), json!("Shop"), json!("shop,crm"), json!(["shop"]), json!("*"), json!("")]
    {
        bad.push(with("azp", azp));
    }
    bad
}

fn structures(issuer: &Issuer) -> Vec<(String, String)> {
    let good = issuer.token(&issuer.header(), &issuer.claims());
    let parts: Vec<&str> = good.split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("three parts") };
    let mut more = issuer.claims();
    more["groups"] = json!(["admin"]);
    let text = |text: &str| issuer.sign(header, &encoded(text));
    let own = issuer.claims().to_string();
    let twice = own.replacen('{', &format!("{{\"aud\":\"other\",\"exp\":{},", now() + 9000), 1);
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
    let flipped: String = good
        .chars()
        .rev()
        .enumerate()
        .map(|(place, char)| if place == 20 { if char == 'A' { 'B' } else { 'A' } } else { char })
        .collect();
    [
        ("a dash", "-".to_owned()),
        ("a word", "token".to_owned()),
        ("dots alone", "..".to_owned()),
        ("two parts", format!("{header}.{claims}")),
        ("an empty signature", format!("{header}.{claims}.")),
        ("no header", format!(".{claims}.{signature}")),
        ("no claims", format!("{header}..{signature}")),
        ("four parts", format!("{good}.{signature}")),
        ("five parts", format!("{good}.a.b")),
        ("a truncated signature", good[..good.len() - 8].to_owned()),
        ("a lengthened signature", format!("{good}AAAA")),
        ("padding", format!("{good}==")),
        ("a signature of zeroes", format!("{header}.{claims}.{}", encoded([0; 64]))),
        ("a signature of ones", format!("{header}.{claims}.{}", encoded([255; 64]))),
        (
            "a signature in DER",
            format!("{header}.{claims}.{}", encoded([0x30, 6, 2, 1, 1, 2, 1, 1])),
        ),
        ("a flipped bit", flipped.chars().rev().collect()),
        (
            "other claims under the signature",
            format!("{header}.{}.{signature}", encoded(more.to_string())),
        ),
        (
            "the signature of the header alone",
            format!(
                "{header}.{claims}.{}",
                issuer.sign(header, "").rsplit('.').next().expect("a signature")
            ),
        ),
        ("a stop inside", good.replacen('.', "..", 1)),
        ("standard base64", issuer.sign(header, &encoded(&own).replace('A', "+"))),
        ("white space inside", format!("{header} .{claims}.{signature}")),
        ("a claim twice", text(&twice)),
        ("an array for claims", text("[]")),
        ("a text for claims", text("\"claims\"")),
        ("null for claims", text("null")),
        ("no JSON", text(&own[1..])),
        ("more after the JSON", text(&format!("{own} {own}"))),
        ("a byte order mark", text(&format!("\u{feff}{own}"))),
        ("octets that are no UTF-8", issuer.sign(header, &encoded(b"{\"iss\":\"\xff\"}"))),
        ("deep nesting", text(&deep)),
        (
            "a header twice",
            issuer.sign(&encoded(r#"{"alg":"none","alg":"ES256","kid":"key"}"#), claims),
        ),
        ("17 KiB", text(&format!("{{\"a\":\"{}\",{}", "x".repeat(13_000), &own[1..]))),
    ]
    .map(|(what, token)| (what.to_owned(), token))
    .into()
}

fn signers(issuer: &Issuer, other: &Issuer, stranger: &Issuer) -> Vec<(String, String)> {
    let header_of = |key: &Issuer, extra: Value| {
        let mut header = issuer.header();
        for (name, value) in extra.as_object().into_iter().flatten() {
            header[name] = value.clone();
        }
        key.token(&header, &issuer.claims())
    };
    let claimed = |key: &Issuer, iss: &Issuer| {
        let mut claims = key.claims();
        claims["iss"] = json!(iss.name());
        key.token(&key.header(), &claims)
    };
    [
        ("a stranger's token", stranger.token(&stranger.header(), &stranger.claims())),
        ("a stranger's key under our issuer's name", claimed(stranger, issuer)),
        ("another issuer's key under our issuer's name", claimed(other, issuer)),
        ("our issuer's key under another issuer's name", claimed(issuer, other)),
        ("a stranger's key with our key's identifier", header_of(stranger, json!({}))),
        (
            "a key of its own: jku",
            header_of(stranger, json!({"jku": format!("{}/keys", stranger.name())})),
        ),
        (
            "a key of its own: x5u",
            header_of(stranger, json!({"x5u": format!("{}/keys", stranger.name())})),
        ),
        (
            "a key of its own: jwk",
            header_of(stranger, json!({"jwk": {"kty": "oct", "k": encoded("secret")}})),
        ),
        ("a key of its own: x5c", header_of(stranger, json!({"x5c": ["MIIB"]}))),
        ("another environment's token", other.token(&other.header(), &other.claims())),
    ]
    .map(|(what, token)| (what.to_owned(), token))
    .into()
}

fn keys(unknown: &str, expired: &str) -> Vec<Bad> {
    let mut flipped = unknown.to_owned();
    flipped.replace_range(10..11, if &unknown[10..11] == "a" { "b" } else { "a" });
    let texts = [
        ("an unknown key", unknown.to_owned()),
        ("an expired key", expired.to_owned()),
        ("a key with a wrong checksum", flipped),
        ("a truncated key", expired[..expired.len() - 1].to_owned()),
        ("a lengthened key", format!("{expired}0")),
        ("a key in capitals", expired.to_uppercase()),
        ("the prefix alone", "pck_".to_owned()),
        ("a key without its prefix", expired[4..].to_owned()),
        ("two keys", format!("{expired},{unknown}")),
        (
            "a hash for a key",
            "sha256:0000000000000000000000000000000000000000000000000000000000000000".to_owned(),
        ),
    ];
    let carried = |(what, key): (&str, String)| {
        [
            (format!("{what} as bearer"), vec![("authorization", format!("Bearer {key}"))]),
            (format!("{what} in X-Api-Key"), vec![("x-api-key", key)]),
        ]
    };
    texts.into_iter().flat_map(carried).collect()
}

/// Valid credentials in the wrong place.
fn carriers(issuer: &Issuer, key: &str) -> Vec<Bad> {
    let token = issuer.token(&issuer.header(), &issuer.claims());
    let bad: [(&str, Vec<(&'static str, String)>); 14] = [
        (
            "two authorizations",
            vec![
                ("authorization", format!("Bearer {token}")),
                ("authorization", format!("Bearer {token}")),
            ],
        ),
        ("basic", vec![("authorization", format!("Basic {token}"))]),
        ("no scheme", vec![("authorization", token.clone())]),
        ("the scheme alone", vec![("authorization", "Bearer".to_owned())]),
        ("a list", vec![("authorization", format!("Bearer {token}, Bearer {token}"))]),
        ("a token in X-Api-Key", vec![("x-api-key", token.clone())]),
        (
            "a token in a cookie",
            vec![("cookie", format!("authorization={token}; access_token={token}"))],
        ),
        ("a token for a session", vec![("cookie", format!("__Host-portcullis={token}"))]),
        ("a made-up session", vec![("cookie", format!("__Host-portcullis={}", encoded([7; 200])))]),
        ("two sessions", vec![("cookie", "__Host-portcullis=a; __Host-portcullis=b".to_owned())]),
        ("the proxy's field", vec![("proxy-authorization", format!("Bearer {token}"))]),
        ("a field of another gateway", vec![("x-forwarded-access-token", token)]),
        (
            "identity from outside",
            vec![
                ("x-auth-request-user", "ann@example.com".to_owned()),
                ("x-auth-request-app", "shop".to_owned()),
            ],
        ),
        (
            "identity from outside, in another spelling",
            vec![("x-forwarded-user", "ann@example.com".to_owned()), ("x-api-key", key.to_owned())],
        ),
    ];
    bad.map(|(what, fields)| (what.to_owned(), fields)).into()
}
