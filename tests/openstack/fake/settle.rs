//! What happens with time: events whose time has come, and guests that power themselves off.

use std::time::Duration;

use super::faults::{ImageFate, ServerFate};
use super::glance_data;
use super::state::{Event, State};

impl State {
    /// Lets everything happen that was to happen by now, in its order.
    pub(crate) fn settle(&mut self, now: Duration) {
        let now = now.max(self.now);
        while let Some(entry) = self.events.first_entry() {
            let (at, _) = *entry.key();
            if at > now {
                break;
            }
            let event = entry.remove();
            self.now = self.now.max(at);
            self.happen(event);
        }
        self.now = now;
        self.look_at_guests();
    }

    fn happen(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::ServerUp(id) => self.server_up(&id),
            Event::ServerGone(id) => self.server_gone(&id),
            Event::ServerTask(id, task) => {
                if let Some(server) = self.servers.get_mut(&id) {
                    (server.task, server.updated) = (task, now);
                }
            }
            Event::ServerStatus(id, status) => {
                if let Some(server) = self.servers.get_mut(&id) {
                    (server.status, server.task, server.updated) = (status, None, now);
                }
            }
            Event::ImageSaving(id) => self.image_saving(&id),
            Event::ImageActive(id) => self.image_active(&id),
            Event::VolumeStatus(id, status) => {
                let Some(volume) = self.volumes.get_mut(&id) else { return };
                volume.status = status;
                let server = volume.server.as_ref().and_then(|server| self.servers.get(server));
                if let Some(guest) = server.and_then(|server| server.guest.as_ref()) {
                    guest.plug("vdb", status == "in-use");
                }
                if status == "available" {
                    volume.server = None;
                }
            }
            Event::VolumeGone(id) => drop(self.volumes.remove(&id)),
        }
    }

    fn server_up(&mut self, id: &str) {
        let now = self.now;
        let Some(server) = self.servers.get_mut(id) else { return };
        server.updated = now;
        match server.fate.clone() {
            ServerFate::StuckInBuild => {}
            ServerFate::Error { code, message } => {
                (server.status, server.task, server.fault) = ("ERROR", None, Some((code, message)));
                // Nothing of it runs, and Nova gives back what it had of the network.
                server.guest = None;
                self.ports.retain(|_, port| port.device != id || !port.novas);
            }
            _ => (server.status, server.task) = ("ACTIVE", None),
        }
    }

    pub(crate) fn server_gone(&mut self, id: &str) {
        self.servers.remove(id);
        let gone: Vec<String> = self.ports_of(id).filter(|port| port.novas).map(|port| port.id.clone()).collect();
        for port in &gone {
            self.ports.remove(port);
        }
        for port in self.ports.values_mut().filter(|port| port.device == id) {
            port.device.clear();
        }
        for ip in self.floating_ips.values_mut().filter(|ip| ip.port.as_ref().is_some_and(|port| gone.contains(port))) {
            ip.port = None;
        }
        for volume in self.volumes.values_mut().filter(|volume| volume.server.as_deref() == Some(id)) {
            (volume.server, volume.status) = (None, "available");
        }
    }

    fn image_saving(&mut self, id: &str) {
        let now = self.now;
        if let Some(image) = self.images.get_mut(id) {
            match image.fate {
                ImageFate::StuckQueued => {}
                _ => (image.status, image.updated) = ("saving", now),
            }
        }
    }

    fn image_active(&mut self, id: &str) {
        let now = self.now;
        let Some(image) = self.images.get_mut(id) else { return };
        match image.fate {
            ImageFate::StuckQueued | ImageFate::StuckSaving => {}
            ImageFate::Killed => {
                // Glance says `killed`; of a snapshot Nova removes what is left.
                if image.properties.contains_key("instance_uuid") {
                    self.images.remove(id);
                } else {
                    (image.status, image.updated, image.data) = ("killed", now, None);
                }
            }
            _ => {
                (image.status, image.updated) = ("active", now);
                if let (ImageFate::Corrupted, Some(data)) = (&image.fate, &image.data) {
                    let mut other = data.to_vec();
                    if let Some(last) = other.last_mut() {
                        *last ^= 1;
                    }
                    image.data = Some(other.into());
                }
                glance_data::sum(image);
            }
        }
    }

    /// A guest that has powered itself off is seen by Nova some time later.
    fn look_at_guests(&mut self) {
        let now = self.now;
        let mut off = Vec::new();
        for server in self.servers.values_mut().filter(|server| server.status == "ACTIVE" && server.task.is_none()) {
            let Some(guest) = server.guest.as_ref().filter(|guest| guest.has_powered_off()) else { continue };
            guest.cut();
            server.guest = None;
            server.updated = now;
            if server.fate != ServerFate::NeverOff {
                off.push(server.id.clone());
            }
        }
        for id in off {
            self.later(Duration::from_secs(1), Event::ServerStatus(id, "SHUTOFF"));
        }
    }
}
