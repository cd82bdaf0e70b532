//! Rollouts: moving traffic to a new release step by step, judged at each step.
//!
//! [`step`](fn@step) is a pure function: the recorded state of a rollout and what is observed result in the
//! next state and in what to do. The state is recorded before the actions are performed, and each
//! action can be repeated. What is done follows from the state and the observation alone, so that a
//! builder that is killed at any instant continues where it was.
//!
//! ```text
//! scaling → (gate) → shifting → watching → … → replacing → returning → cleaning → promoted
//!    └─────────┴─────────┴─────────┴──→ withdrawing → removing → rolled back, superseded
//! ```
//!
//! Going forward needs everything: ready pods, replicas of the gateway that agree, and evidence.
//! Whatever is missing is a *hold*, with a sentence that says what. Going back needs only a cause.

mod gate;
mod observation;
mod order;
mod settings;
mod state;
mod step;

pub use self::gate::GateSettings;
pub use self::observation::{Gate, Gateway, Judged, Observation, Pods, Query, Split, Stable};
pub use self::order::{Order, OrderRefusal, order};
pub use self::settings::{Objectives, QuerySettings, Settings, Step};
pub use self::state::{Action, Cause, Rollout, Stage};
pub use self::step::step;

#[cfg(test)]
mod tests;
