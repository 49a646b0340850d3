use super::*;
use proptest::prelude::*;

const NOW_MS: i64 = 1_795_000_000_000;

fn check(payload: &[u8]) -> Vec<Checked<'_>> {
    validate(Domain::Industrial, payload, NOW_MS, &ValidationLimits::default()).collect()
}

fn record(seq: u64) -> String {
    format!(
        r#"{{"device_id":"press-7","event_time":{NOW_MS},"seq":{seq},"domain":"industrial","kind":"sensor","t":1.5}}"#
    )
}

fn only_refusal(payload: &str) -> (Reason, &'static str, String) {
    match &check(payload.as_bytes())[..] {
        [Checked::Refused(refused)] => (refused.reason, refused.field, refused.value.clone()),
        other => panic!("{payload}: {other:?}"),
    }
}

fn seqs(checked: &[Checked<'_>]) -> Vec<Result<u64, Reason>> {
    let seq = |checked: &Checked<'_>| match checked {
        Checked::Valid(valid) => Ok(valid.seq),
        Checked::Refused(refused) => Err(refused.reason),
    };
    checked.iter().map(seq).collect()
}

#[test]
fn a_valid_record_gives_its_identity_and_exact_bytes() {
    let text = format!("  {}\n", record(3));
    let checked = check(text.as_bytes());
    let [Checked::Valid(valid)] = &checked[..] else { panic!("{checked:?}") };
    assert_eq!((valid.device_id.as_ref(), valid.kind.as_ref(), valid.seq), ("press-7", "sensor", 3));
    assert_eq!((valid.event_time_ms, valid.abnormal), (NOW_MS, false));
    assert_eq!(valid.bytes, record(3).as_bytes());
    assert!(matches!(valid.device_id, Cow::Borrowed(_)), "a plain string must not be copied");
}

#[test]
fn escapes_unknown_fields_and_the_abnormal_flag_are_understood() {
    let text = format!(
        r#"{{"x":{{"seq":[1,{{"device_id":0}}]}},"device\u005fid":"pr\u00e9\"ss","event_time":{NOW_MS},"seq":1,"domain":"industrial","kind":"k","abnormal":true,"n":null}}"#
    );
    let checked = check(text.as_bytes());
    let [Checked::Valid(valid)] = &checked[..] else { panic!("{checked:?}") };
    assert_eq!((valid.device_id.as_ref(), valid.abnormal), ("pré\"ss", true));
}

#[test]
fn a_record_over_several_lines_is_written_as_one() {
    let pretty = record(9).replace(',', ",\r\n\t").replace('{', "{\n");
    let checked = check(pretty.as_bytes());
    let [Checked::Valid(valid)] = &checked[..] else { panic!("{checked:?}") };
    let mut line = Vec::new();
    valid.write_line(&mut line);
    assert!(!line.contains(&b'\n') && !line.contains(&b'\r'));
    let compact: serde_json::Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(compact, serde_json::from_str::<serde_json::Value>(&record(9)).unwrap());
}

#[test]
fn lines_arrays_and_neighbours_are_all_taken_apart() {
    let (one, two, three) = (record(1), record(2), record(3));
    for payload in
        [format!("{one}\n{two}\r\n\n{three}\n"), format!("[{one},{two} ,\n {three}]"), format!("{one}{two} {three}")]
    {
        assert_eq!(seqs(&check(payload.as_bytes())), [Ok(1), Ok(2), Ok(3)], "{payload}");
    }
    assert_eq!(check(b"[ ]"), []);
}

#[test]
fn a_broken_line_does_not_take_its_neighbours_along() {
    let payload =
        format!("{}\n{{\"device_id\":\"d\",\"seq\":7,oops}}\n{}\nrubbish\n{}", record(1), record(2), record(3));
    let checked = check(payload.as_bytes());
    let malformed = Err(Reason::MalformedJson);
    assert_eq!(seqs(&checked), [Ok(1), malformed, Ok(2), malformed, Ok(3)]);
    let Checked::Refused(refused) = &checked[1] else { panic!() };
    assert_eq!((refused.device_id.as_deref(), refused.seq), (Some("d"), Some(7)), "what was readable is kept");
    assert_eq!(refused.bytes, br#"{"device_id":"d","seq":7,oops}"#);
    assert!(refused.value.contains("oops"), "{}", refused.value);
}

#[test]
fn a_broken_array_keeps_the_records_before_the_break() {
    let malformed = Err(Reason::MalformedJson);
    for (tail, expected) in [
        (",{oops},{}]", vec![Ok(1), malformed]),
        (",]", vec![Ok(1), malformed]),
        ("", vec![Ok(1), malformed]),
        ("] x", vec![Ok(1), malformed]),
        (" 5]", vec![Ok(1), malformed]),
        (",5]", vec![Ok(1), Err(Reason::NotAnObject)]),
    ] {
        let payload = format!("[{}{tail}", record(1));
        assert_eq!(seqs(&check(payload.as_bytes())), expected, "{payload}");
    }
}

#[test]
fn each_wrong_field_is_named_with_its_value() {
    use Reason::*;
    let good = record(1);
    let time = NOW_MS.to_string();
    let (future, ancient) = ((NOW_MS + 300_001).to_string(), (NOW_MS - 30 * 86_400_000 - 1).to_string());
    let long_id = format!("\"{}\"", "x".repeat(129));
    let cases: Vec<(String, Reason, &str, &str)> = vec![
        (good.replace("\"press-7\"", "7"), WrongType, "device_id", "7"),
        (good.replace("\"press-7\"", "\"\""), OutOfBounds, "device_id", ""),
        (good.replace("\"press-7\"", &long_id), OutOfBounds, "device_id", &long_id[1..129]),
        (good.replace("\"device_id\":\"press-7\",", ""), MissingField, "device_id", ""),
        (good.replace(&time, "\"now\""), WrongType, "event_time", "\"now\""),
        (good.replace(&time, "1.5"), WrongType, "event_time", "1.5"),
        (good.replace(&time, &future), FutureTimestamp, "event_time", &future),
        (good.replace(&time, "18446744073709551615"), FutureTimestamp, "event_time", "18446744073709551615"),
        (good.replace(&time, &ancient), AncientTimestamp, "event_time", &ancient),
        (good.replace(&time, "-5"), AncientTimestamp, "event_time", "-5"),
        (good.replace("\"seq\":1", "\"seq\":0"), OutOfBounds, "seq", "0"),
        (good.replace("\"seq\":1", "\"seq\":-1"), OutOfBounds, "seq", "-1"),
        (good.replace("\"seq\":1", "\"seq\":[1]"), WrongType, "seq", "an array"),
        (good.replace("\"seq\":1", "\"sequence\":1"), MissingField, "seq", ""),
        (good.replace("\"seq\":1", "\"seq\":1,\"seq\":2"), DuplicateField, "seq", "given twice"),
        (good.replace("\"industrial\"", "\"mars\""), UnknownDomain, "domain", "mars"),
        (good.replace("\"industrial\"", "\"healthcare\""), DomainMismatch, "domain", "healthcare"),
        (good.replace("\"industrial\"", "null"), WrongType, "domain", "null"),
        (good.replace("\"kind\":\"sensor\"", "\"kind\":{}"), WrongType, "kind", "an object"),
        (good.replace("1.5}", "1.5,\"abnormal\":1}"), WrongType, "abnormal", "1"),
        (good.replace("1.5", &format!("\"{}\"", "y".repeat(300_000))), TooLarge, "record", "300097 bytes"),
        ("[[1,2]]".into(), NotAnObject, "record", "an array"),
        ("12".into(), NotAnObject, "record", "12"),
        ("\"text\"".into(), NotAnObject, "record", "\"text\""),
    ];
    for (payload, reason, field, value) in cases {
        let (actual_reason, actual_field, actual_value) = only_refusal(&payload);
        let payload = &payload[..payload.len().min(300)];
        assert_eq!((actual_reason, actual_field), (reason, field), "{payload}");
        if reason != TooLarge {
            assert_eq!(actual_value, value, "{payload}");
        }
    }
}

#[test]
fn limits_are_inclusive() {
    for time_ms in [NOW_MS + 300_000, NOW_MS - 30 * 86_400_000] {
        let text = record(1).replace(&NOW_MS.to_string(), &time_ms.to_string());
        assert_eq!(seqs(&check(text.as_bytes())), [Ok(1)]);
    }
}

#[test]
fn what_is_not_json_is_malformed() {
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let good = record(1);
    let cases: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b" \n ".to_vec(),
        b"{".to_vec(),
        b"{\"a\":1,}".to_vec(),
        good.replace("1.5", "NaN").into_bytes(),
        good.replace("1.5", "Infinity").into_bytes(),
        good.replace("1.5", "-Infinity").into_bytes(),
        good.replace("1.5", "1e999").into_bytes(),
        good.replace("1.5", "01").into_bytes(),
        good.replace("1.5", "\"\n\"").into_bytes(),
        good.replace("1.5", "\"\\ud800\"").into_bytes(),
        good.replace("1.5", &deep).into_bytes(),
        deep.into_bytes(),
        vec![0xff, 0xfe],
        [good.as_bytes(), &[0x80]].concat(),
    ];
    for payload in cases {
        let checked = check(&payload);
        assert!(
            checked.len() == 1 && seqs(&checked) == [Err(Reason::MalformedJson)],
            "{}: {checked:?}",
            String::from_utf8_lossy(&payload[..payload.len().min(200)])
        );
    }
}

#[test]
fn records_broken_inside_each_other_are_not_read_again_for_ever() {
    let payload = "{\"k\":\n".repeat(100_000);
    let checked = check(payload.as_bytes());
    let covered: usize = checked
        .iter()
        .map(|checked| match checked {
            Checked::Refused(refused) => refused.bytes.iter().filter(|byte| **byte != b'\n').count(),
            Checked::Valid(valid) => panic!("{valid:?}"),
        })
        .sum();
    assert_eq!(covered, 5 * 100_000, "every byte is refused exactly once");
    assert!(checked.len() < 100_000, "{} refusals", checked.len());
}

#[test]
fn names_of_reasons_are_their_json() {
    for reason in Reason::ALL {
        assert_eq!(serde_json::to_string(&reason).unwrap(), format!("\"{}\"", reason.name()));
    }
}

/// Bytes of a payload that must belong to an answer.
fn without_space_and_array(payload: &[u8]) -> Vec<u8> {
    payload.iter().copied().filter(|byte| !b" \n\r\t[],".contains(byte)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic_and_none_is_lost(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
        let checked = check(&payload);
        prop_assert!(checked.len() <= payload.len() + 1);
    }

    #[test]
    fn every_byte_of_json_like_text_is_answered_once(
        payload in r#"([\[\]{},: \n]|"a"|1|"seq":2|\{"device_id":"d"\}|\n\{|true|-|é){0,60}"#
    ) {
        let checked = check(payload.as_bytes());
        let mut answered = Vec::new();
        for one in &checked {
            match one {
                Checked::Valid(valid) => answered.extend(without_space_and_array(valid.bytes)),
                Checked::Refused(refused) => answered.extend(without_space_and_array(refused.bytes)),
            }
        }
        prop_assert_eq!(answered, without_space_and_array(payload.as_bytes()), "{:?}", payload);
    }

    #[test]
    fn valid_records_survive_any_mixture_of_line_breaks(count in 1_u64..20, breaks in proptest::collection::vec(0_usize..4, 20)) {
        let mut payload = String::new();
        for seq in 1..=count {
            payload.push_str(&record(seq));
            payload.push_str(["\n", "\r\n", "", " \n\n"][breaks[seq as usize - 1]]);
        }
        let expected: Vec<Result<u64, Reason>> = (1..=count).map(Ok).collect();
        prop_assert_eq!(seqs(&check(payload.as_bytes())), expected);
    }

    #[test]
    fn a_record_cut_anywhere_is_malformed(cut in 1_usize..90) {
        let text = record(1);
        let checked = check(&text.as_bytes()[..cut]);
        prop_assert_eq!(seqs(&checked), vec![Err(Reason::MalformedJson)]);
    }
}
