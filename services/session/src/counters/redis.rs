//! Counters in Redis or Valkey, one server or a cluster: a string per run, a hash per pool and budget, each changed by a
//! script in one trip, or in two where a run's are not as its writer expects.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use uuid::Uuid;

use super::{
    Advance, Amounts, Answer, Carve, Counters, Error, Held, Limit, Pool, PoolRebuild, Verdict,
    budget::{self, Budget, BudgetRebuild, Budgets, GRACE_DAYS, GiveBack, Grant, Slice, Spend, Window},
    ledger::{self, Kept},
    pool,
};
use link::{Call, Code, Link, unavailable};

pub(crate) mod link;
mod read;

/// A key outlives every run: the longest `expire_time` is below it.
const KEY_EXPIRY: Duration = Duration::from_secs(35 * 24 * 3600);
const DAY_SECONDS: i64 = 24 * 3600;

/// Where Redis is and how long it may take.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// `redis://…` or `rediss://…` (TLS) for one server; `redis+cluster://host:port,host:port…` or `rediss+cluster://…` for
    /// a cluster, some of whose nodes it names.
    pub url: SecretString,
    /// The authorities that TLS trusts, as PEM; the system's when there is none.
    pub ca_pem: Option<Vec<u8>>,
    /// How long an answer may take before it counts as lost.
    pub response_timeout: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
}

impl RedisConfig {
    /// The address with the default timeouts: 500 ms each.
    #[must_use]
    pub const fn new(url: SecretString) -> Self {
        let timeout = Duration::from_millis(500);
        Self { url, ca_pem: None, response_timeout: timeout, connect_timeout: timeout }
    }
}

/// Counters that every replica shares.
#[derive(Debug, Clone)]
pub struct RedisCounters {
    link: Arc<Link>,
    scripts: Arc<Scripts>,
}

#[derive(Debug)]
struct Scripts {
    /// None where counters are believed.
    succeed: Option<Code>,
    advance: Code,
    forget: Code,
    retire: Code,
    release: Code,
    rebuild_pool: Code,
    grant: Code,
    give_back: Code,
    rebuild_budget: Code,
    eviction: Code,
}

macro_rules! code {
    ($($file:literal),+) => {
        Code::new(concat!(include_str!("redis/prelude.lua"), $(include_str!($file)),+))
    };
}

impl Scripts {
    fn new() -> Self {
        Self {
            succeed: Some(Code::new(include_str!("redis/succeed.lua"))),
            advance: code!("redis/advance.lua"),
            forget: Code::new("return redis.call('UNLINK', KEYS[1])"),
            retire: code!("redis/retire.lua", "redis/retired.lua"),
            release: code!("redis/retire.lua", "redis/release.lua"),
            rebuild_pool: code!("redis/rebuild_pool.lua"),
            grant: code!("redis/budget.lua", "redis/grant.lua"),
            give_back: code!("redis/budget.lua", "redis/give_back.lua"),
            rebuild_budget: code!("redis/budget.lua", "redis/rebuild_budget.lua"),
            eviction: Code::new(
                "local info = redis.call('INFO', 'memory')\n\
                 return {string.match(info, 'maxmemory:(%d+)'), string.match(info, 'maxmemory_policy:(%S+)')}",
            ),
        }
    }
}

/// The script without its look at what the counters saw last: what is there counts, and what is gone counts as nothing.
#[cfg(debug_assertions)]
fn believed(advance: &Code) -> String {
    let text = advance.text().replace("if kept_seq == last_seq then", "if true then");
    let text = text.replace("if kept[2 + i] ~= totals[i] then", "if false then");
    text.replace(
        "local used, rebuilt = totals, ''",
        "local used, rebuilt = #kept == 7 and {unpack(kept, 3)} or {0, 0, 0, 0, 0}, ''",
    )
    .replace("elseif last_seq ~= -1 then", "elseif false then")
}

impl RedisCounters {
    /// Counters that connect on first use, and again by themselves after a loss. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the address or the certificate makes no sense; a Redis that is down is none.
    pub fn new(config: &RedisConfig) -> Result<Self, Error> {
        let link = Link::new(config).map_err(unavailable)?;
        Ok(Self { link: Arc::new(link), scripts: Arc::new(Scripts::new()) })
    }

    /// Counters that are believed whatever they saw last: [`Fault::StaleCounter`](crate::sabotage::Fault).
    ///
    /// # Errors
    /// As [`Self::new`].
    #[cfg(debug_assertions)]
    pub fn believed(config: &RedisConfig) -> Result<Self, Error> {
        let link = Link::new(config).map_err(unavailable)?;
        let mut scripts = Scripts::new();
        (scripts.succeed, scripts.advance) = (None, Code::new(believed(&scripts.advance)));
        Ok(Self { link: Arc::new(link), scripts: Arc::new(scripts) })
    }

    /// The policy by which the server drops keys when its memory is full; none when it drops none. Counters survive that, but
    /// every dropped key costs a rebuild. Of a cluster, one node is asked.
    ///
    /// # Errors
    /// When no server answers.
    pub async fn eviction(&self) -> Result<Option<String>, Error> {
        let call = self.scripts.eviction.call(&["halt:{eviction}".to_owned()]);
        let [maximum, policy]: [String; 2] = self
            .link
            .call::<Vec<String>>(&call)
            .await?
            .try_into()
            .map_err(|_| Error::Unavailable("no policy".into()))?;
        Ok((maximum != "0" && policy != "noeviction").then_some(policy))
    }

    async fn done(&self, call: &Call<'_>) -> Result<(), Error> {
        self.link.call::<i64>(call).await.map(|_| ())
    }

    /// What the change answers when the counters are as its writer expects; none when they are not.
    async fn succeed(&self, code: &Code, change: &Advance) -> Result<Option<Answer>, Error> {
        let (before, after) = ledger::succession(change);
        let mut call = code.call(&[run_key(change.root, change.run)]);
        call.arg(before.as_ref().map(place).unwrap_or_default()).arg(kept(&after)).arg(KEY_EXPIRY.as_secs());
        Ok((self.link.call::<i64>(&call).await? == 1).then(|| after.answer()))
    }

    /// The change, whatever is kept.
    async fn judge(&self, change: &Advance) -> Result<Answer, Error> {
        let mut keys = vec![run_key(change.root, change.run)];
        let tree = change.in_tree();
        if tree {
            let carved = match change.carve {
                Some(Carve::Open(_)) => pool_key(change.root, change.run, change.seq),
                Some(Carve::Close(seq)) => pool_key(change.root, change.run, seq),
                None => keys[0].clone(),
            };
            let drawn = change.draw.map(|draw| pool_key(change.root, draw.pool.parent, draw.pool.seq));
            let drawn = drawn.unwrap_or_else(|| keys[0].clone());
            keys.extend([carved, drawn]);
        }
        let mut call = self.scripts.advance.call(&keys);
        call.args([change.epoch, change.seq, change.last_seq]).arg(KEY_EXPIRY.as_secs());
        for amounts in [change.totals, change.settle, change.reserve, change.limits] {
            call.args(amounts.in_order());
        }
        if tree {
            let (word, size) = match change.carve {
                Some(Carve::Open(size)) => ("open", size),
                Some(Carve::Close(_)) => ("close", Amounts::default()),
                None => ("", Amounts::default()),
            };
            call.arg(word).args(size.in_order());
            if let Some(draw) = change.draw {
                call.arg(draw.pool.nonce).id(change.run).args(draw.drawn.in_order()).args(draw.want.in_order());
            }
        }
        read::answer(&self.link.call::<Vec<String>>(&call).await?, change.epoch)
    }
}

#[async_trait]
impl Counters for RedisCounters {
    async fn advance(&self, change: Advance) -> Result<Answer, Error> {
        ledger::check(&change)?;
        if let Some(code) = &self.scripts.succeed
            && !change.in_tree()
            && let Some(answer) = self.succeed(code, &change).await?
        {
            return Ok(answer);
        }
        self.judge(&change).await
    }

    async fn forget(&self, root: Uuid, run: Uuid) -> Result<(), Error> {
        self.done(&self.scripts.forget.call(&[run_key(root, run)])).await
    }

    async fn retire(&self, root: Uuid, run: Uuid, next_seq: i64) -> Result<(), Error> {
        let mut call = self.scripts.retire.call(&[run_key(root, run)]);
        call.arg(next_seq);
        self.done(&call).await
    }

    async fn release(&self, root: Uuid, pool: Pool, ended: Held) -> Result<(), Error> {
        pool::check_held(&ended)?;
        let keys = [run_key(root, ended.run), pool_key(root, pool.parent, pool.seq)];
        let mut call = self.scripts.release.call(&keys);
        call.arg(pool.nonce).id(ended.run).args([ended.epoch, ended.seq]).args(ended.amounts.in_order());
        self.done(&call).await
    }

    async fn rebuild_pool(&self, rebuild: &PoolRebuild) -> Result<(), Error> {
        let sum = rebuild.sum()?;
        let pool = rebuild.pool;
        let mut call = self.scripts.rebuild_pool.call(&[pool_key(rebuild.root, pool.parent, pool.seq)]);
        call.arg(pool.nonce).arg(rebuild.token).arg(KEY_EXPIRY.as_secs());
        call.arg(packed(rebuild.size.in_order())).arg(packed(sum.in_order()));
        for held in &rebuild.held {
            let share = [held.epoch, held.seq + 1].into_iter().chain(held.amounts.in_order()).chain([0, 0, 0, 0, 0, 1]);
            call.id(held.run).arg(packed(share));
        }
        self.done(&call).await
    }
}

#[async_trait]
impl Budgets for RedisCounters {
    async fn grant(&self, slice: &Slice) -> Result<Grant, Error> {
        budget::check_slice(slice)?;
        let mut call = self.scripts.grant.call(&[budget_key(&slice.budget, slice.window)]);
        call.arg(slice.generation).id(slice.id);
        expiry(&mut call, slice.window);
        for spend in [slice.limit, slice.want, slice.least] {
            call.args(spend.in_order());
        }
        for limit in slice.limit.in_order() {
            match budget::marks(limit) {
                Some(marks) => call.args(marks),
                None => call.arg("").arg("").arg(""),
            };
        }
        read::grant(&self.link.call::<Vec<String>>(&call).await?, slice)
    }

    async fn give_back(&self, back: &GiveBack) -> Result<(), Error> {
        budget::check_back(back)?;
        let mut call = self.scripts.give_back.call(&[budget_key(&back.budget, back.window)]);
        call.id(back.id).args(back.unused.in_order());
        self.done(&call).await
    }

    async fn rebuild_budget(&self, rebuild: &BudgetRebuild) -> Result<(), Error> {
        let used = budget::check_rebuild(rebuild)?;
        let mut call = self.scripts.rebuild_budget.call(&[budget_key(&rebuild.budget, rebuild.window)]);
        call.arg(rebuild.generation);
        expiry(&mut call, rebuild.window);
        call.arg(packed(used.in_order())).arg(packed(rebuild.recorded.map(i64::from)));
        for (id, Spend { cost_nano_usd, runs }) in &rebuild.open {
            call.id(id).arg(packed([*cost_nano_usd, *runs, 0, 0, 0, 0]));
        }
        self.done(&call).await
    }
}

/// What is kept of a run's change that is in no tree, as `advance.lua` says.
fn kept(kept: &Kept) -> String {
    let verdict = match kept.answer().verdict {
        Verdict::Granted => 0,
        Verdict::Refused(limit) => Limit::IN_ORDER.iter().take_while(|&&other| other != limit).count() + 1,
    };
    let mut text = place(kept);
    let _ = write!(text, "{verdict}||");
    text
}

/// Where counters stand, with its end mark.
fn place(kept: &Kept) -> String {
    let mut text = packed([kept.epoch(), kept.seq()].into_iter().chain(kept.used().in_order()));
    text.push('|');
    text
}

/// The braces are the hash tag: a run tree lives on one node of a cluster.
fn run_key(root: Uuid, run: Uuid) -> String {
    format!("halt:{{{root}}}:{run}")
}

fn pool_key(root: Uuid, parent: Uuid, seq: i64) -> String {
    format!("halt:{{{root}}}:{parent}:{seq}")
}

fn budget_key(budget: &Budget, window: Window) -> String {
    let budget = budget.as_str();
    match window {
        Window::Day(day) => format!("budget:{{{budget}}}:{day}"),
        Window::Lifetime => format!("budget:{{{budget}}}:life"),
    }
}

fn expiry(call: &mut Call<'_>, window: Window) {
    match window {
        Window::Day(day) => call.arg("at").arg((day + 1 + GRACE_DAYS) * DAY_SECONDS),
        Window::Lifetime => call.arg("in").arg(KEY_EXPIRY.as_secs()),
    };
}

/// A list as one field, as the scripts read it.
fn packed(list: impl IntoIterator<Item = i64>) -> String {
    let mut text = String::with_capacity(64);
    for number in list {
        if !text.is_empty() {
            text.push(' ');
        }
        // A string takes whatever is written.
        let _ = write!(text, "{number}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_that_believes_differs_in_each_of_its_four_places() {
        let advance = Scripts::new().advance;
        let believed = believed(&advance);
        let differ = believed.lines().zip(advance.text().lines()).filter(|(a, b)| a != b).count();
        assert_eq!(differ, 4);
    }
}
