use super::*;

#[test]
fn the_api_server_is_read_from_the_variables_of_a_container() {
    let with = |host: &str, port: Option<&str>| {
        api_server(|name| match name {
            "KUBERNETES_SERVICE_HOST" => Some(host.to_owned()),
            "KUBERNETES_SERVICE_PORT" => port.map(ToOwned::to_owned),
            _ => None,
        })
    };
    assert_eq!(with("10.96.0.1", Some("443")), "10.96.0.1:443".parse().ok());
    assert_eq!(with("fd00::1", Some("6443")), "[fd00::1]:6443".parse().ok());
    assert_eq!(with("10.96.0.1", None), "10.96.0.1:443".parse().ok());
    assert_eq!(with("10.96.0.1", Some("https")), "10.96.0.1:443".parse().ok());
    assert_eq!(with("api.example.com", Some("443")), None);
    assert_eq!(api_server(|_| None), None);
}

#[test]
fn the_location_is_read_from_the_variables_of_a_container() {
    let with = |zone: Option<&str>| {
        location(|name| match name {
            "POD_ZONE" => zone.map(ToOwned::to_owned),
            "NODE_NAME" => Some("node-1".to_owned()),
            _ => None,
        })
    };
    let node = Some("node-1".into());
    assert_eq!(with(Some("a")), Location { zone: Some("a".into()), node: node.clone() });
    let unknown = Location { zone: None, node };
    assert_eq!((with(None), with(Some(""))), (unknown.clone(), unknown), "a Pod without the label");
}
