//! The golden vector: a whole synthesis from fixed peers, byte for byte, on any machine.

use std::path::Path;

use mar_proto::session::{ModelConstraints, Task};

use crate::harness::{Harness, request, task, verified};

const HASH: &str = "sha256:9e896dbc8b0385f5509c27343872460374becfbc8484900a17992ff3df41c38d";

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
