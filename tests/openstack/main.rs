//! The cloud: the client and the driver against a strict fake, and against the real Keystone and Glance.
//!
//! [`fake`] is the cloud that never was; `cloud` beside this file brings up the real one. What the fake says is itself
//! looked at, in [`itself`], since everything else here believes it.

mod fake;

mod itself;
