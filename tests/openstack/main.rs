//! The cloud: the client and the driver against a strict fake, and against the real Keystone and Glance.
//!
//! [`fake`] is a cloud that does on demand what no healthy one would; [`real`] brings up the services of Debian's packages
//! with the program `cloud` beside this file. What the fake says is itself looked at: alone in [`itself`], and against the
//! real ones in [`compared`], since everything else here believes it.

mod builds;
mod caller;
#[path = "../daemon/factory.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod factory;
mod fake;
mod real;

mod compared;
mod driver;
mod itself;
mod stacks;
mod storm;
mod suite;
