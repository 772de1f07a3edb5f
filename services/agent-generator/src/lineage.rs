//! What the agent of a child run may be, given its parent's.

use mar_descriptor::{Descriptor, HaltingSection, Hash};
use mar_runtime::status::Resource;
use mar_runtime::violations::Violations;

use crate::error::Error;
use crate::missing::Missing;
use crate::store::Store;

/// The parent's descriptor, as this service has sealed it for the tenant.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Store`]; [`Error::Seal`] for one that cannot be read.
pub async fn parent(store: &dyn Store, tenant: &str, hash: Hash) -> Result<Descriptor, Error> {
    let missing = || Error::NotFound(Missing::one(Resource::Agent, format!("agents/{hash}")));
    let stored = store.descriptor_get(tenant, hash).await?.ok_or_else(missing)?;
    Descriptor::parse(&stored.descriptor.canonical).map_err(Error::Seal)
}

/// Refuses limits that are wider than the parent's.
///
/// # Errors
/// [`Error::Invalid`] with each of them.
pub fn within(parent: &Descriptor, limits: &HaltingSection) -> Result<(), Error> {
    let most = &parent.halting;
    let pairs = [
        ("max_steps", limits.max_steps, most.max_steps),
        ("max_tool_calls", limits.max_tool_calls, most.max_tool_calls),
        ("max_active_time", limits.max_active_time_ms, most.max_active_time_ms),
        ("max_depth", limits.max_depth, most.max_depth.saturating_sub(1)),
        ("max_input_tokens", limits.max_input_tokens, most.max_input_tokens),
        ("max_output_tokens", limits.max_output_tokens, most.max_output_tokens),
        ("max_cost_nano_usd", limits.max_cost_nano_usd, most.max_cost_nano_usd),
    ];
    let mut found = Violations::new();
    for (field, value, most) in pairs {
        found.require(value <= most, &format!("limits.{field}"), format!("must be at most {most}, as the parent's"));
    }
    Ok(found.into_result(())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_stay_within_the_parents_and_depth_below() {
        let mut parent = Descriptor::default();
        parent.halting = HaltingSection { max_steps: 4, max_depth: 1, ..parent.halting };
        let child = |steps, depth| HaltingSection { max_steps: steps, max_depth: depth, ..parent.halting.clone() };
        assert!(within(&parent, &child(4, 0)).is_ok());
        match within(&parent, &child(5, 1)) {
            Err(Error::Invalid(found)) => {
                let fields: Vec<_> = found.iter().map(|one| one.field.as_str()).collect();
                assert_eq!(fields, ["limits.max_steps", "limits.max_depth"]);
            }
            other => panic!("{other:?}"),
        }
    }
}
