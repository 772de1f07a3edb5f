//! Compiles every proto under `proto/agentruntime` with protox, so that no protoc has to be installed, and writes the
//! module tree that `lib.rs` includes.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message as _;

/// The name under which each package's module is exported at the root of the crate.
const SHORT_NAMES: [(&str, &str); 7] = [
    ("agentruntime.type.v1", "types"),
    ("agentruntime.session.v1", "session"),
    ("agentruntime.router.v1", "router"),
    ("agentruntime.agent.v1", "agent"),
    ("agentruntime.tool.v1", "tool"),
    ("agentruntime.admin.v1", "admin"),
    ("agentruntime.extension.v1", "extension"),
];

const LINTS: &str = "#[allow(missing_docs, rustdoc::all, clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::expect_used, clippy::panic)]";

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let root = root.canonicalize()?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed={}", root.display());

    let mut protos = Vec::new();
    collect(&root.join("agentruntime"), &mut protos)?;
    protos.sort();
    for proto in &protos {
        println!("cargo:rerun-if-changed={}", proto.display());
    }

    let files = protox::compile(&protos, [&root])?;
    fs::write(out.join("file_descriptor_set.bin"), files.encode_to_vec())?;
    let packages: BTreeSet<String> = files
        .file
        .iter()
        .map(|file| file.package().to_owned())
        .filter(|package| package.starts_with("agentruntime."))
        .collect();

    tonic_prost_build::configure()
        .btree_map(".")
        .bytes(".")
        .build_client(true)
        .build_server(true)
        .emit_rerun_if_changed(false)
        .out_dir(&out)
        .compile_fds(files)?;
    fs::write(out.join("tree.rs"), tree(&packages)?)?;
    Ok(())
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={}", folder.display());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, into)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            into.push(path);
        }
    }
    Ok(())
}

/// The modules `agentruntime::<area>::v1`, nested as the generated `super::` paths expect, and their short names.
fn tree(packages: &BTreeSet<String>) -> Result<String, Box<dyn Error>> {
    let mut text = String::from("/// The packages under their full names.\npub mod agentruntime {\n");
    for package in packages {
        let [_, area, version] = package.split('.').collect::<Vec<_>>()[..] else {
            return Err(format!("package {package} is not agentruntime.<area>.<version>").into());
        };
        // prost escapes Rust's keywords in the names of the files, too.
        let file = package.replace(".type.", ".r#type.");
        writeln!(text, "    /// `agentruntime.{area}`\n    pub mod r#{area} {{")?;
        writeln!(text, "        /// `{package}`\n        {LINTS}\n        pub mod {version} {{")?;
        writeln!(text, "            include!(concat!(env!(\"OUT_DIR\"), \"/{file}.rs\"));\n        }}\n    }}")?;
    }
    text.push_str("}\n");
    for (package, short) in SHORT_NAMES {
        if packages.contains(package) {
            let path = package.replace(".type.", ".r#type.").replace('.', "::");
            writeln!(text, "pub use {path} as {short};")?;
        }
    }
    Ok(text)
}
