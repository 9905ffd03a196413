//! The disk that disks are kept on.

use factoryd::engine::ports::PortError;

use crate::factory::Factory;
use crate::world::Trouble;

#[test]
fn a_disk_that_could_not_be_made_durable_stops_all_writing_until_a_start_has_verified() {
    for at in ["seal ", "publish "] {
        let mut factory = Factory::new();
        factory.expected_errors = vec!["takes no more writes", "can't be journalled", "can't be read"];
        let error = PortError::not_durable("disk.qcow2 could not be made durable: Input/output error");
        factory.world.next(at, Trouble::Fail(error));
        factory.push();
        factory.until_true("it takes no more writes", |engine| async move { engine.store().broken().is_some() });
        let reason = factory.engine().store().broken().expect("broken");
        assert_eq!(reason, "disk.qcow2 could not be made durable: Input/output error", "{at}");
        factory.restart();
        assert!(factory.engine().store().opening_report().is_some(), "{at}: it was verified");
        factory.settle();
        assert!(factory.ended(1).starts_with("passed:"), "{at}: {}", factory.ended(1));
        assert_eq!(factory.build(1).build.attempt, 2, "{at}");
    }
}
