//! Packets that a demuxer marks as discarded (edit lists): which of them a copy needs. Those that are only there to be
//! decoded go along where the container can hide them, or where pictures that are shown refer to them.

use ffmpeg_next::Packet;

use upscaled_core::types::source::StreamKind;

use crate::ffi::output;

/// Pictures that are kept back at most until it is seen whether they are referred to.
const HELD_MAX: usize = 1024;
const HELD_BYTES: usize = 16 << 20;

/// Passes on what belongs to a stream's presentation.
pub struct Cutter {
    /// Discarded packets before the first one that is shown go along: the container hides them.
    keeps_lead: bool,
    /// Packets may need discarded ones before them.
    refers: bool,
    /// A packet that is shown has come.
    begun: bool,
    held: Vec<Packet>,
    held_bytes: usize,
}

impl Cutter {
    pub fn new(kind: StreamKind, keeps_lead: bool) -> Cutter {
        let coded = matches!(kind, StreamKind::Audio | StreamKind::Video);
        Cutter {
            keeps_lead: keeps_lead && coded,
            refers: kind == StreamKind::Video,
            begun: false,
            held: Vec::new(),
            held_bytes: 0,
        }
    }

    /// Takes the next packet in file order and gives out those that are to be written now.
    pub fn pass(&mut self, packet: Packet, out: &mut dyn FnMut(Packet)) {
        if output::is_discarded(&packet) {
            if self.keeps_lead && !self.begun {
                out(packet);
            } else if self.refers {
                self.hold(packet);
            }
            return;
        }
        self.begun = true;
        let alone = packet.is_key();
        self.held_bytes = 0;
        for needed in self.held.drain(..).filter(|_| !alone) {
            out(needed);
        }
        out(packet);
    }

    fn hold(&mut self, packet: Packet) {
        // Nothing refers to what comes before a key frame; of too many the rest is of no use either.
        if packet.is_key() || self.held.len() >= HELD_MAX || self.held_bytes >= HELD_BYTES {
            self.held.clear();
            self.held_bytes = 0;
        }
        self.held_bytes += packet.size();
        self.held.push(packet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which packets of a stream go out: `D` discarded, `d` a discarded key packet, `K` a key packet, `P` another one.
    fn passed(kind: StreamKind, keeps_lead: bool, packets: &str) -> String {
        let mut cutter = Cutter::new(kind, keeps_lead);
        let mut out = String::new();
        for letter in packets.chars() {
            let mut packet = Packet::copy(&[letter as u8]);
            if matches!(letter, 'd' | 'K') {
                packet.set_flags(ffmpeg_next::packet::Flags::KEY);
            }
            if matches!(letter, 'd' | 'D') {
                output::set_discarded(&mut packet);
            }
            cutter.pass(packet, &mut |packet| out.push(char::from(packet.data().unwrap()[0])));
        }
        out
    }

    #[test]
    fn sound_that_was_cut_out_stays_out() {
        assert_eq!(passed(StreamKind::Audio, true, "ddKKddKK"), "ddKKKK");
        assert_eq!(passed(StreamKind::Audio, false, "ddKKddKK"), "KKKK");
        assert_eq!(passed(StreamKind::Subtitle, true, "dKdK"), "KK");
    }

    #[test]
    fn pictures_that_are_referred_to_stay() {
        assert_eq!(passed(StreamKind::Video, true, "dDPPdDDPKPdDKP"), "dDPPdDDPKPKP");
        assert_eq!(passed(StreamKind::Video, false, "dDKPDPK"), "KPDPK");
        assert_eq!(passed(StreamKind::Video, false, "dDdDP"), "dDP");
    }
}
