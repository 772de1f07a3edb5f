use std::collections::BTreeSet;

use secrecy::ExposeSecret as _;

use super::*;
use crate::auth::keys::KeyPair;
use crate::clock::{ManualClock, SystemIds};

fn pair() -> KeyPair {
    keys::generate(&SystemIds).unwrap()
}

fn signer(pair: &KeyPair, clock: &Arc<ManualClock>) -> RunTokenSigner {
    RunTokenSigner::try_new(pair.private_pem.expose_secret(), clock.clone()).unwrap()
}

fn verifier(pairs: &[&KeyPair], clock: &Arc<ManualClock>) -> RunTokenVerifier {
    let pems: Vec<_> = pairs.iter().map(|pair| pair.public_pem.clone()).collect();
    RunTokenVerifier::try_new(&pems, ServiceName::Router, clock.clone()).unwrap()
}

fn caller() -> Caller {
    Caller { end_user: Some("ada".into()), groups: BTreeSet::from(["ops".into()]), ..Caller::dev() }
}

fn grant() -> RunGrant {
    RunGrant { session: "s".into(), run: "r".into(), descriptor_hash: Some("sha256:00".into()), epoch: 3 }
}

#[test]
fn a_token_says_who_and_for_what() {
    let (clock, pair) = (Arc::new(ManualClock::default()), pair());
    let token = signer(&pair, &clock).sign(&caller(), &grant(), &[ServiceName::Router]).unwrap();
    assert!(looks_like_one(&token));
    assert_eq!(verifier(&[&pair], &clock).verify(&token).unwrap(), (caller(), grant()));
}

#[test]
fn it_ends_after_its_life_and_the_leeway() {
    let (clock, pair) = (Arc::new(ManualClock::default()), pair());
    let token = signer(&pair, &clock).sign(&caller(), &grant(), &[ServiceName::Router]).unwrap();
    let verifier = verifier(&[&pair], &clock);
    clock.advance(MAX_LIFE + LEEWAY - Duration::from_secs(1));
    assert!(verifier.verify(&token).is_ok());
    clock.advance(Duration::from_secs(1));
    assert!(matches!(verifier.verify(&token), Err(Error::Expired)));
}

#[test]
fn it_is_refused_elsewhere_and_early_and_when_it_lives_too_long() {
    let (clock, ahead, pair) = (Arc::new(ManualClock::default()), Arc::new(ManualClock::default()), pair());
    let verifier = verifier(&[&pair], &clock);
    let signer = signer(&pair, &clock);
    let token = signer.sign(&caller(), &grant(), &[ServiceName::ToolGateway]).unwrap();
    assert!(matches!(verifier.verify(&token), Err(Error::Audience)));

    ahead.advance(LEEWAY + Duration::from_secs(1));
    let early = super::tests::signer(&pair, &ahead).sign(&caller(), &grant(), &[ServiceName::Router]).unwrap();
    assert!(matches!(verifier.verify(&early), Err(Error::Expired)));

    let mut long = signer;
    long.life = MAX_LIFE * 2;
    let token = long.sign(&caller(), &grant(), &[ServiceName::Router]).unwrap();
    assert!(matches!(verifier.verify(&token), Err(Error::TooLong)));
}

#[test]
fn keys_rotate_by_overlap() {
    let clock = Arc::new(ManualClock::default());
    let (old, new, foreign) = (pair(), pair(), pair());
    let sign = |pair| signer(pair, &clock).sign(&caller(), &grant(), &[ServiceName::Router]).unwrap();
    let both = verifier(&[&old, &new], &clock);
    assert!(both.verify(&sign(&old)).is_ok() && both.verify(&sign(&new)).is_ok());
    assert!(matches!(both.verify(&sign(&foreign)), Err(Error::UnknownKey)));
    assert!(matches!(verifier(&[&new], &clock).verify(&sign(&old)), Err(Error::UnknownKey)));
}

#[test]
fn altered_and_foreign_tokens_are_malformed() {
    let (clock, pair) = (Arc::new(ManualClock::default()), pair());
    let verifier = verifier(&[&pair], &clock);
    let mut signer = signer(&pair, &clock);
    let token = signer.sign(&caller(), &grant(), &[ServiceName::Router]).unwrap();
    let (head, signature) = token.rsplit_once('.').unwrap();
    let other = signer.sign(&Caller { tenant: "other".into(), ..caller() }, &grant(), &[ServiceName::Router]).unwrap();
    let swapped = format!("{}.{signature}", other.rsplit_once('.').unwrap().0);
    for bad in [head, &swapped, "a.b.c", "", "...."] {
        assert!(matches!(verifier.verify(bad), Err(Error::Malformed)), "{bad}");
    }
    signer.header.typ = Some("JWT".into());
    let plain = signer.sign(&caller(), &grant(), &[ServiceName::Router]).unwrap();
    assert!(matches!(verifier.verify(&plain), Err(Error::Malformed)));
}

#[test]
fn without_a_descriptor_few_methods_open() {
    let early = RunGrant { descriptor_hash: None, ..grant() };
    assert!(early.opens("/agentruntime.router.v1.RouterService/SelectModel").is_ok());
    let generate = "/agentruntime.router.v1.RouterService/Generate";
    assert!(matches!(early.opens(generate), Err(Error::NeedsDescriptor)));
    assert!(grant().opens(generate).is_ok());
}

#[test]
fn refusals_have_their_reason() {
    let status = Status::from(Error::Expired);
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(crate::status::Reason::of(&status), Some(ErrorReason::RunTokenInvalid));
}
