//! Tests of the pickle machine: what it reads, and what it will not.

use upscaled_core::fault::Fault;

use super::*;

/// Text as the instruction `X`.
fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

#[test]
fn plain_values_of_every_protocol() {
    for bytes in [
        &b"(dp0\nS'a'\np1\nI1\nsV\xc3\xa9\n(lp2\nI01\naF0.5\nas."[..],
        b"\x80\x02}q\x00(U\x01aK\x01X\x02\x00\x00\x00\xc3\xa9]q\x01(\x88G?\xe0\x00\x00\x00\x00\x00\x00eu.",
        b"\x80\x04\x95\x1f\0\0\0\0\0\0\0}\x94(\x8c\x01a\x94K\x01\x8c\x02\xc3\xa9\x94]\x94(\x88G?\xe0\0\0\0\0\0\0eu.rest",
    ] {
        let pickle = read(bytes).unwrap();
        let &[(a, one), (accent, list)] = pickle.dict(pickle.root).unwrap() else { panic!("{pickle:?}") };
        assert_eq!((pickle.text(a), one, pickle.text(accent)), (Some("a"), Value::Int(1), Some("é")));
        assert_eq!(pickle.elements(list), Some(&[Value::Bool(true), Value::Float(0.5)][..]));
        assert!(bytes[pickle.length - 1] == b'.');
    }
    let numbers = read(b"(J\xff\xff\xff\xff\x8a\x01\xfe\x8a\x02\x00\x01\x8a\x00L12L\nM\x01\x02t.").unwrap();
    let expected = [-1, -2, 256, 0, 12, 513].map(Value::Int);
    assert_eq!(numbers.elements(numbers.root), Some(&expected[..]));
}

#[test]
fn code_is_named_and_not_run() {
    let stack = [b"\x80\x04".to_vec(), text("builtins"), text("eval"), b"\x93)R.".to_vec()].concat();
    for (bytes, name) in [
        (&b"cos\nsystem\n(S'true'\ntR."[..], "`os.system`"),
        (b"cposix\nsystem\n.", "`posix.system`"),
        (&stack, "`builtins.eval`"),
        (b"(S'true'\nios\nsystem\n.", "`os.system`"),
        (b"(cos\nsystem\nS'true'\no.", "`os.system`"),
        (b"ctorch.nn.modules.conv\nConv2d\n)\x81}b.", "`torch.nn.modules.conv.Conv2d`"),
        (b"ctorch\nload\n.", "`torch.load`"),
        (b"ctorch.storage\n_load_from_bytes\n.", "_load_from_bytes`"),
        (b"c\x1b[2J\n`x`\n.", "`?[2J.?x?`"),
        (b"\x80\x02\x82\x01.", "extensions"),
        (b"ccollections\nOrderedDict\n)R)R.", "made itself"),
        (b"ctorch\nFloatStorage\n)R.", "calls a type"),
    ] {
        let error = read(bytes).unwrap_err();
        assert_eq!(Fault::of(&error), Fault::Unsupported, "{error}");
        assert!(error.to_string().contains(name) && error.to_string().contains("code"), "{error}");
    }
}

#[test]
fn damage_is_an_error() {
    for bytes in [
        &b""[..],
        b"N",
        b".",
        b"t.",
        b"a.",
        b"Na.",
        b"h\x05.",
        b"g9\n.",
        b"s.",
        b"}(K\x01u.",
        b"NR.",
        b"ccollections\n.",
        b"ccollections\nOrderedDict\nNR.",
        b"\x80\x09N.",
        b"\xff.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        b"X\xff\xff\xff\xffabc.",
        b"(N0.0.",
        b"NQ.",
        b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuJ\xff\xff\xff\xfftQ.",
        b"o.",
        b"(o.",
    ] {
        assert!(read(bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn bombs_do_not_go_off() {
    // Lists within each other, and a list within itself.
    let deep = [vec![b']'; 300_000], vec![b'a'; 299_999], b".".to_vec()].concat();
    assert!(read(&deep).is_ok());
    assert!(read(b"]q\x00h\x00a.").is_ok());
    assert!(read(&[b'('; 5000]).unwrap_err().to_string().contains("nested"));
    // More values than any network has.
    assert!(read(&vec![b'N'; 3_000_000]).unwrap_err().to_string().contains("instructions"));
    let memo: Vec<u8> = (0..600_000u32).flat_map(|n| [&b"Nr"[..], &n.to_le_bytes()].concat()).collect();
    assert!(read(&memo).unwrap_err().to_string().contains("instructions"));
    // Each step makes a list twice as long as the one before, by reference: small.
    let laughs = [b"]q\x00".to_vec(), b"](h\x00h\x00eq\x00".repeat(1000), b".".to_vec()].concat();
    assert!(read(&laughs).is_ok());
    // The same long list copied by a call, again and again.
    let pairs: Vec<u8> = [&b"]q\x00("[..], &b"NN\x86".repeat(1000), b"e"].concat();
    let copies = b"ccollections\nOrderedDict\nh\x00\x85R0".repeat(10_000);
    assert!(read(&[pairs, copies].concat()).unwrap_err().to_string().contains("copies"));
}
