//! The caller of a run, as it is stored with it.

use std::collections::BTreeSet;

use bytes::Bytes;
use mar_runtime::auth::Caller;
use serde::{Deserialize, Serialize};

use crate::store;

/// What run tokens are made from again after a restart. The tenant is the row's own.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    principal: String,
    end_user: Option<String>,
    groups: BTreeSet<String>,
    scopes: BTreeSet<String>,
    environment: String,
}

/// A caller as bytes.
pub fn encode(caller: &Caller) -> Bytes {
    let stored = Stored {
        principal: caller.principal.clone(),
        end_user: caller.end_user.clone(),
        groups: caller.groups.clone(),
        scopes: caller.scopes.clone(),
        environment: caller.environment.clone(),
    };
    // Strings and sets of strings always have a JSON form.
    serde_json::to_vec(&stored).unwrap_or_default().into()
}

/// A stored caller.
pub fn decode(tenant: &str, bytes: &[u8]) -> Result<Caller, store::Error> {
    let stored: Stored = serde_json::from_slice(bytes).map_err(|_| store::Error::Corrupt("caller"))?;
    Ok(Caller {
        tenant: tenant.to_owned(),
        principal: stored.principal,
        end_user: stored.end_user,
        groups: stored.groups,
        scopes: stored.scopes,
        environment: stored.environment,
    })
}
