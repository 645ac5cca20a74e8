use super::*;

fn read(line: &str) -> Result<Event> {
    decode(Bytes::copy_from_slice(line.as_bytes()))
}

#[test]
fn three_generations_of_hydra_node_are_read() {
    let bare = decode_hydra(Bytes::from_static(br#"{"tag":"TickObserved","chainSlot":758}"#), 41).unwrap();
    assert_eq!(bare.to_string(), r#"{"eventId":41,"stateChanged":{"tag":"TickObserved","chainSlot":758}}"#);
    let second = r#"{"eventId":126,"stateChanged":{"chainSlot":758,"tag":"TickObserved"}}"#;
    assert_eq!(decode_hydra(Bytes::from_static(second.as_bytes()), 0).unwrap().to_string(), second);
    let third = r#"{"eventId":126,"stateChanged":{"tag":"T"},"time":"2025-04-03T10:11:12.123456789012Z"}"#;
    let event = read(third).unwrap();
    assert_eq!(event.to_string(), third);
    assert_eq!(event.time(), Some("2025-04-03T10:11:12.123456789012Z"));
    assert!(!event.is_snapshot());
}

#[test]
fn a_checkpoint_change_is_a_snapshot_when_read_as_hydra() {
    let line = r#"{"eventId":9,"stateChanged":{"state":{"tag":"Open"},"tag":"Checkpoint"},"time":"t"}"#;
    assert!(decode_hydra(Bytes::from_static(line.as_bytes()), 0).unwrap().is_snapshot());
    assert!(!read(line).unwrap().is_snapshot());
    let inner = r#"{"eventId":9,"stateChanged":{"state":{"tag":"Checkpoint"},"tag":"Open"},"time":"t"}"#;
    assert!(!decode_hydra(Bytes::from_static(inner.as_bytes()), 0).unwrap().is_snapshot());
}

#[test]
fn any_order_and_spacing_is_read_and_each_part_keeps_its_bytes() {
    let event = read(
        r#" { "x\u0041" : [1, 2] , "time":"t", "stateChanged" : {"b": 1.0,"a":9007199254740993,"c":1e400} ,"eventId" : 5, "y":null } "#,
    )
    .unwrap();
    assert_eq!(
        event.to_string(),
        r#"{"eventId":5,"stateChanged":{"b": 1.0,"a":9007199254740993,"c":1e400},"time":"t","x\u0041":[1, 2],"y":null}"#
    );
    assert_eq!(read(&event.to_string()).unwrap(), event);
}

#[test]
fn the_private_member_never_leaves() {
    let line = r#"{"eventId":5,"stateChanged":1,"time":"t","z":0,"_hydrant":"c0ffee"}"#;
    let event = read(line).unwrap();
    assert_eq!(event.to_string(), r#"{"eventId":5,"stateChanged":1,"time":"t","z":0}"#);
    let first = read(r#"{"_hydrant":{"a":[]},"eventId":5,"stateChanged":1,"time":"t","z":0}"#).unwrap();
    assert_eq!(first, event);
}

#[test]
fn what_is_no_event_is_named() {
    for (line, says) in [
        ("", "an empty line"),
        ("\0\0\0", "NUL bytes"),
        ("{\0\"\0", "UTF-16"),
        ("\u{FEFF}{}", "byte order mark"),
        ("{\u{A0}}", "this is not an event"),
        ("{\"eventId\":1,\"stateChan", "EOF"),
        ("[]", "one JSON object"),
        ("\"a text that might be of any length\"", "but something that does not begin with `{`"),
        ("{}", "no `eventId`"),
        (r#"{"stateChanged":{}}"#, "no `eventId`"),
        (r#"{"eventId":1}"#, "no `stateChanged`"),
        (r#"{"tag":"TickObserved"}"#, "no `eventId`"),
        (r#"{"eventId":-1,"stateChanged":{}}"#, "`eventId` is -1"),
        (r#"{"eventId":18446744073709551616,"stateChanged":{}}"#, "`eventId` is 18446744073709551616"),
        (r#"{"eventId":"1","stateChanged":{}}"#, "`eventId` is \"1\""),
        (r#"{"eventId":1.5,"stateChanged":{}}"#, "`eventId` is 1.5"),
        (r#"{"eventId":1,"stateChanged":{},"time":7}"#, "`time` is not a string"),
        (r#"{"eventId":1,"eventId":1,"stateChanged":{}}"#, "`eventId` stands twice"),
        (r#"{"eventId":1,"event\u0049d":1,"stateChanged":{}}"#, "`eventId` stands twice"),
        (r#"{"eventId":1,"stateChanged":{},"x":1,"\u0078":2}"#, "`x` stands twice"),
        (r#"{"eventId":1,"stateChanged":{},"isSnapshot":1}"#, "`isSnapshot` is not"),
        (r#"{"eventId":1,"stateChanged":{},"\ud800":1}"#, "this is not an event"),
        ("{\"eventId\":[\n1],\"stateChanged\":{}}", "`eventId` is [ 1]"),
        (r#"{"eventId":-0,"stateChanged":{}}"#, "`eventId` is -0"),
        (r#"{"eventId":1e2,"stateChanged":{}}"#, "`eventId` is 1e2"),
        (r#"{"eventId":1,"stateChanged":{},"x":1,"x":2}"#, "`x` stands twice"),
        (r#"{"eventId":1,"stateChanged":{}}{}"#, "trailing"),
        ("{\"eventId\":1,\"stateChanged\":{\n}}", "several lines"),
    ] {
        let error = read(line).unwrap_err().to_string();
        assert!(error.contains(says), "{line:?} gave {error:?}");
    }
    assert!(decode(Bytes::from_static(&[0xFF, 0xFE, b'{', 0])).unwrap_err().to_string().contains("UTF-16"));
}

#[test]
fn names_may_be_escaped_and_hold_what_separates() {
    let event =
        read(r#"{"event\u0049d":1,"state\u0043hanged":{} , "a:,\"b\\" : 1 ,"ü\t":[2],"":{}}"#).unwrap();
    assert_eq!(event.members(), r#""a:,\"b\\":1,"ü\t":[2],"":{}"#.as_bytes());
    assert_eq!(read(&event.to_string()).unwrap(), event);
    let private = read(r#"{"eventId":1,"stateChanged":{},"_hydr\u0061nt":{"x":1}}"#).unwrap();
    assert_eq!(private.to_string(), r#"{"eventId":1,"stateChanged":{}}"#);
}

#[test]
fn the_members_of_a_bare_change_are_its_own() {
    let change = r#"{"tag":"T","time":7,"metadata":{},"isSnapshot":"no","x":1,"x":2}"#;
    let event = decode_hydra(Bytes::from_static(change.as_bytes()), 3).unwrap();
    assert_eq!((event.payload(), event.time(), event.metadata()), (change.as_bytes(), None, None));
    let checkpoint = decode_hydra(Bytes::from_static(br#"{"state":{},"tag":"Checkpoint"}"#), 4).unwrap();
    assert!(checkpoint.is_snapshot());
}

#[test]
fn a_line_of_very_many_members_is_read_in_reasonable_time() {
    use std::fmt::Write as _;
    let mut line = r#"{"eventId":1,"stateChanged":{}"#.to_owned();
    (0..200_000).for_each(|name| write!(line, ",\"{name}\":0").unwrap());
    line.push('}');
    assert_eq!(read(&line).unwrap().to_string(), line);
}

#[test]
fn any_json_is_a_member() {
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    for json in ["1e400", "-0.0", "\"\\ud800\"", deep.as_str()] {
        let event = Event::builder(EventId::ZERO).payload_json("1").member("x", json).build().unwrap();
        assert_eq!(event.members(), format!("\"x\":{json}").as_bytes());
    }
    for json in ["", "1 ", " 1", "1,\"y\":2 ", "1}", "1,\"x\":1", "1,\"_hydrant\":1", "\n1", "[1,\n2]"] {
        let built = Event::builder(EventId::ZERO).payload_json("1").member("x", json).build();
        assert_eq!(built.unwrap_err().kind(), crate::ErrorKind::Invalid, "{json:?}");
    }
    assert!(Event::builder(EventId::ZERO).payload_json("1").member("_hydrant", "1").build().is_err());
    assert!(Event::builder(EventId::ZERO).payload_json("1").member("eventId", "0").build().is_err());
}

#[test]
fn deep_nesting_is_no_recursion() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let event = Event::builder(EventId::ZERO).payload_json(deep.clone()).build().unwrap();
    assert_eq!(read(&event.to_string()).unwrap().payload(), deep.as_bytes());
}
