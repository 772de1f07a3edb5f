//! The golden vector: a whole synthesis from fixed peers, byte for byte, on any machine.

use std::path::Path;

use mar_proto::session::{ModelConstraints, Task};

use crate::harness::{Harness, request, task, verified};

const HASH: &str = "sha256:ae86642b3e4b766b6d47fab2ed38e67bbee7fb51ce250e5f9c1d6f5cc6327d14";

/// Changes only with what is sealed: a recipe, the pipeline's steps, the canonical form. `MAR_BLESS=1` writes it anew.
#[tokio::test]
async fn a_whole_synthesis_has_a_fixed_hash() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden");
    let mut harness = Harness::with(|setup| setup.config.platform_policy = Some(golden.join("platform.cedar"))).await;
    let asked = Task {
        parameters: [("language".to_owned(), "German".to_owned())].into(),
        labels: [("team".to_owned(), "search".to_owned())].into(),
        alignment_policy: "permit (principal, action, resource);\n".into(),
        model: Some(ModelConstraints { residency: vec!["local".into(), "eu".into()], ..ModelConstraints::default() }),
        ..task(&["docs.*", "web.fetch"])
    };
    let agent = harness.client.generate_agent(request(asked)).await.unwrap().into_inner().agent.unwrap();
    let sealed = agent.descriptor.unwrap();
    verified(&sealed);
    let canonical = String::from_utf8(sealed.canonical.to_vec()).unwrap();
    let file = golden.join("descriptor.json");
    if std::env::var_os("MAR_BLESS").is_some() {
        std::fs::write(&file, &canonical).unwrap();
    }
    assert_eq!(canonical, std::fs::read_to_string(&file).unwrap());
    assert_eq!(sealed.hash, HASH);
}
