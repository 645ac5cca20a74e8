use super::*;

fn events() -> Vec<Event> {
    let mut events = Vec::new();
    for bits in 0..16_u32 {
        let id = EventId::new([0, 7, 99, u64::MAX][bits as usize % 4]);
        let mut event = Event::builder(id).payload_json(r#"{"a":"ä\n","b":[1.0,1e400]}"#);
        if bits & 1 != 0 {
            event = event.time(["", "2026-01-05T09:00:00Z"][bits as usize / 8]);
        }
        if bits & 2 != 0 {
            event = event.metadata_json("{}");
        }
        if bits & 4 != 0 {
            event = event.snapshot();
        }
        if bits & 8 != 0 {
            event = event.member("x", "[1]").member("y", "null");
        }
        events.push(event.build().unwrap());
    }
    let long = "x".repeat(70_000);
    events.push(Event::builder(EventId::ZERO).payload_json("1").time(&long).build().unwrap());
    let long = format!("\"{long}\"");
    events.push(Event::builder(EventId::ZERO).payload_json(long.clone()).build().unwrap());
    events.push(Event::builder(EventId::ZERO).payload_json("1").metadata_json(long.clone()).build().unwrap());
    events.push(Event::builder(EventId::ZERO).payload_json("1").member("m", &long).build().unwrap());
    events
}

fn places() -> Vec<Place> {
    let marks = Some(Marks { start: 0xAB_CDEF, synced: 7 });
    let mut places = vec![Place::default()];
    places.push(Place { flags: Flags::ENDS | Flags::AFTER_FOREIGN, marks, opens: None });
    places.push(Place { flags: Flags::ENDS, marks, opens: Some(Opens::Root) });
    places.push(Place { flags: Flags::ENDS, marks, opens: Some(Opens::Behind(EventId::new(u64::MAX))) });
    places
}

#[test]
fn what_is_encoded_is_read_back_without_parsing_and_by_parsing() {
    for event in events() {
        for place in places() {
            let mut line = Vec::new();
            encode(&mut line, &event, place);
            assert!(line.len() <= event.open_envelope().len() + OVERHEAD_MAX);
            assert_eq!(line.pop(), Some(b'\n'));
            let line = Bytes::from(line);
            let Line::Ours(ours) = parse(&line).unwrap() else { panic!("ours") };
            assert_eq!(ours.event(line.clone()).unwrap(), event);
            assert_eq!(envelope::decode(line.clone()).unwrap(), event);
            assert_eq!((ours.marks, ours.opens), (place.marks, place.opens));
            assert!(ours.flags.has(place.flags));
        }
    }
}

#[test]
fn a_line_with_the_reserved_flag_is_refused() {
    for event in events() {
        let mut line = Vec::new();
        let place = Place { flags: Flags::RESERVED, ..Place::default() };
        encode(&mut line, &event, place);
        line.pop();
        assert_eq!(parse(&line).unwrap_err().kind(), hydrant::ErrorKind::Unsupported);
    }
}

#[test]
fn numbers_are_written_as_rust_writes_them() {
    for number in (0..64).map(|bit| u64::MAX >> bit).chain([0, 0x0123_4567_89AB_CDEF, 0x9A]) {
        assert_eq!(hex_digits::<16>(number), format!("{number:016x}").as_bytes());
        assert_eq!(hex_digits::<4>(number & 0xFFFF), format!("{:04x}", number & 0xFFFF).as_bytes());
        assert_eq!(hex(&hex_digits::<16>(number)), Some(number));
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let event = Event::builder(EventId::new(126)).payload_json(r#"{"tag":"T"}"#).time("t").build().unwrap();
    for place in places() {
        let mut line = Vec::new();
        encode(&mut line, &event, place);
        line.pop();
        for bit in 0..line.len() * 8 {
            let mut flipped = line.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let noticed = match parse(&flipped) {
                Err(_) => true,
                Ok(Line::Foreign) => decode_foreign(flipped.clone().into(), Some(0)).is_err(),
                Ok(Line::Ours(_)) => false,
            };
            assert!(noticed, "bit {bit} of {}", String::from_utf8_lossy(&flipped));
        }
    }
}

#[test]
fn foreign_lines_are_taken_and_newer_ones_refused() {
    let line = br#"{"eventId":126,"stateChanged":{"tag":"T"},"time":"2025-04-03T10:11:12Z"}"#;
    assert!(matches!(parse(line), Ok(Line::Foreign)));
    assert!(matches!(parse(b""), Ok(Line::Foreign)));
    assert!(matches!(parse(b"\"}"), Ok(Line::Foreign)));
    let newer = br#"{"eventId":126,"stateChanged":{},"_hydrant":"h2000102030405"}"#;
    assert_eq!(parse(newer).unwrap_err().kind(), hydrant::ErrorKind::Unsupported);
    assert!(is_bare(&Bytes::from_static(br#"{"tag":"TickObserved","chainSlot":758}"#)));
    assert!(!is_bare(&Bytes::from_static(br#"{ "eventId":3,"stateChanged":{}}"#)));
}
