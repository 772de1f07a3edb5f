//! `mar runs verify`: whether a run's record is the one that was written.

use mar_proto::session::{VerifyFault, VerifyPlace, VerifyRunRequest, VerifyRunResponse};
use serde_json::{Value, json};

use super::full_name;
use crate::args::EndpointArgs;
use crate::endpoint::Endpoint;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::out::{Ink, Out, one_line};
use crate::table::{Align, count, table};

/// Longest sentence of a fault that is shown to people.
const SENTENCE: usize = 200;

pub(super) async fn verify(run: &str, endpoint: &EndpointArgs, as_json: bool, out: Out) -> Result<Exit, Failure> {
    let endpoint = Endpoint::try_new(endpoint)?;
    let name = full_name(&endpoint, run).await?;
    let request = endpoint.request(VerifyRunRequest { name: name.clone() });
    let found = endpoint.sessions()?.verify_run(request).await.map_err(|status| endpoint.failure(status))?;
    let found = found.into_inner();
    let exit = if found.valid { Exit::Done } else { Exit::RunFailed };
    if as_json {
        out.json(&to_json(&name, &found, exit));
    } else {
        out.lines(lines(&name, &found, out.result));
    }
    Ok(exit)
}

fn lines(name: &str, found: &VerifyRunResponse, ink: Ink) -> Vec<String> {
    let mut lines = Vec::new();
    if !found.valid {
        let rows: Vec<_> = found.faults.iter().map(row).collect();
        let columns = [("PLACE", Align::Left), ("FAULT", Align::Left), ("WHAT", Align::Left)];
        lines.extend(table(ink, &columns, &rows));
        lines.push(String::new());
    }
    let verdict = match (found.faults.len(), found.sealed) {
        (0, true) => ink.good("VERIFIED"),
        (0, false) => ink.good("VERIFIED as far as it goes"),
        (1, _) => ink.bad("1 FAULT"),
        (faults, _) => ink.bad(&format!("{faults} FAULTS")),
    };
    lines.push(format!("{verdict}  {} events  {name}", count(found.events)));
    lines.push(format!("head        sha256:{}", hex::encode(&found.head)));
    lines.extend(found.unchecked.iter().map(|text| format!("unchecked   {}", one_line(text, SENTENCE))));
    lines
}

fn row(fault: &VerifyFault) -> Vec<String> {
    let place = match (fault.place(), fault.seq) {
        (VerifyPlace::Event, seq) => format!("event {seq}"),
        (VerifyPlace::SessionLog, -1) => "session log".to_owned(),
        (VerifyPlace::SessionLog, seq) => format!("session log {seq}"),
        (other, _) => place_name(other).to_lowercase(),
    };
    vec![place, kind_name(fault).to_owned(), one_line(&fault.message, SENTENCE)]
}

fn to_json(name: &str, found: &VerifyRunResponse, exit: Exit) -> Value {
    let fault = |fault: &VerifyFault| {
        json!({
            "place": place_name(fault.place()),
            "seq": fault.seq,
            "kind": kind_name(fault),
            "message": fault.message,
        })
    };
    json!({
        "run": name,
        "valid": found.valid,
        "sealed": found.sealed,
        "faults": found.faults.iter().map(fault).collect::<Vec<_>>(),
        "unchecked": found.unchecked,
        "events": found.events,
        "events_without_payload": found.events_without_payload,
        "payloads_erased": found.payloads_erased,
        "head": hex::encode(&found.head),
        "exit_code": exit.code(),
    })
}

fn place_name(place: VerifyPlace) -> &'static str {
    place.as_str_name().trim_start_matches("VERIFY_PLACE_")
}

fn kind_name(fault: &VerifyFault) -> &'static str {
    fault.kind().as_str_name().trim_start_matches("VERIFY_FAULT_KIND_")
}

#[cfg(test)]
mod tests {
    use mar_proto::session::VerifyFaultKind;

    use super::*;

    #[test]
    fn faults_are_told_with_their_place() {
        let fault = |place: VerifyPlace, seq, kind: VerifyFaultKind| VerifyFault {
            seq,
            message: "it is\nso".into(),
            kind: kind.into(),
            place: place.into(),
        };
        let faults = vec![
            fault(VerifyPlace::Event, 3, VerifyFaultKind::Hash),
            fault(VerifyPlace::Seal, -1, VerifyFaultKind::Signature),
            fault(VerifyPlace::SessionLog, 2, VerifyFaultKind::Mismatch),
        ];
        let found = VerifyRunResponse { faults, events: 9, unchecked: vec!["much".into()], ..Default::default() };
        let text = lines("sessions/s/runs/r", &found, Ink(false)).join("\n");
        let parts =
            ["event 3", "HASH", "it is so", "seal", "SIGNATURE", "session log 2", "3 FAULTS  9 events", "unchecked"];
        for part in parts {
            assert!(text.contains(part), "{part} in {text}");
        }
        let json = to_json("sessions/s/runs/r", &found, Exit::RunFailed);
        assert_eq!((json["faults"][1]["seq"].as_i64(), json["exit_code"].as_i64()), (Some(-1), Some(1)));
        assert_eq!(
            (json["faults"][0]["kind"].as_str(), json["faults"][0]["place"].as_str()),
            (Some("HASH"), Some("EVENT"))
        );

        let open = VerifyRunResponse { valid: true, events: 2, ..Default::default() };
        let text = lines("sessions/s/runs/r", &open, Ink(false)).join("\n");
        assert!(text.starts_with("VERIFIED as far as it goes  2 events"), "{text}");
    }
}
