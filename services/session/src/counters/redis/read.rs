//! What the scripts answer. An answer that they cannot have given counts as none.

use super::link::unavailable;
use crate::counters::{
    Amounts, Answer, Error, Limit, Verdict,
    budget::{self, Grant, Granted, Slice, Spend, Spent},
};

fn foreign() -> Error {
    Error::Unavailable("answer of another script".into())
}

fn number(text: &str) -> Result<i64, Error> {
    text.parse().map_err(unavailable)
}

fn numbers<const N: usize>(words: &[String]) -> Result<[i64; N], Error> {
    let list = words.iter().map(|word| number(word)).collect::<Result<Vec<_>, _>>()?;
    list.try_into().map_err(|_| foreign())
}

/// Of `advance.lua`.
pub(super) fn answer(words: &[String], epoch: i64) -> Result<Answer, Error> {
    match words {
        [ok, verdict, rebuilt, used @ .., tree] if ok == "1" => {
            let verdict = match usize::try_from(number(verdict)?).map_err(unavailable)? {
                0 => Verdict::Granted,
                limit => Verdict::Refused(*Limit::IN_ORDER.get(limit - 1).ok_or_else(foreign)?),
            };
            let rebuilt = if rebuilt.is_empty() { None } else { Some(number(rebuilt)?) };
            let (opened, drawn) = self::tree(tree)?;
            Ok(Answer { verdict, used: Amounts::from_order(numbers(used)?), rebuilt, drawn, opened })
        }
        [stale, seen] if stale == "0" => Err(Error::Stale(epoch, number(seen)?)),
        [lost, token] if lost == "2" => Err(Error::PoolLost(number(token)?)),
        _ => Err(foreign()),
    }
}

fn tree(text: &str) -> Result<(Option<i64>, Amounts), Error> {
    if text.is_empty() {
        return Ok((None, Amounts::default()));
    }
    let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    let [opened, drawn @ ..] = numbers::<6>(&words)?;
    Ok(((opened >= 0).then_some(opened), Amounts::from_order(drawn)))
}

/// Of `grant.lua`.
pub(super) fn grant(words: &[String], slice: &Slice) -> Result<Grant, Error> {
    let (kind, rest) = words.split_first().ok_or_else(foreign)?;
    match kind.as_str() {
        "0" => Err(Error::BudgetLost(numbers::<1>(rest)?[0])),
        "1" => {
            let [cost, runs, used_cost, used_runs, marks @ ..] = numbers::<8>(rest)?;
            let mark = |number: i64| u8::try_from(number).map_err(unavailable);
            let crossed = [(mark(marks[0])?, mark(marks[1])?), (mark(marks[2])?, mark(marks[3])?)];
            Ok(Grant {
                verdict: Granted::Slice(Spend::from_order([cost, runs])),
                used: Spend::from_order([used_cost, used_runs]),
                limit: slice.limit,
                crossed: budget::crossed(crossed),
            })
        }
        "2" => {
            let [which, cost, runs] = numbers::<3>(rest)?;
            let which = usize::try_from(which - 1).map_err(unavailable)?;
            let verdict = Granted::Exhausted(*Spent::IN_ORDER.get(which).ok_or_else(foreign)?);
            Ok(Grant { verdict, used: Spend::from_order([cost, runs]), limit: slice.limit, crossed: Vec::new() })
        }
        _ => Err(foreign()),
    }
}
