//! The tasks by name, as clients of this service know them.

use upscaled_core::config::target::TASKS;

/// A task and the sizes it is named after; outputs are `scale` times their payload, whatever its size.
pub struct VidaioTask {
    pub name: &'static str,
    pub from: (u32, u32),
    pub to: (u32, u32),
}

/// In the order in which they are told.
pub const ALL: [VidaioTask; 4] = [
    VidaioTask { name: "SD2HD", from: (854, 480), to: (1920, 1080) },
    VidaioTask { name: "SD24K", from: (854, 480), to: (3840, 2160) },
    VidaioTask { name: "HD24K", from: (1920, 1080), to: (3840, 2160) },
    VidaioTask { name: "4K28K", from: (3840, 2160), to: (7680, 4320) },
];

impl VidaioTask {
    /// How many times larger an output is.
    pub fn scale(&self) -> u32 {
        TASKS.iter().find(|(name, _)| *name == self.name).map_or(2, |(_, scale)| *scale)
    }
}

/// The task of that name.
pub fn find(name: &str) -> Option<&'static VidaioTask> {
    ALL.iter().find(|task| task.name == name)
}

/// What a client is told whose task there is not.
pub fn unknown() -> String {
    let names: Vec<String> = ALL.iter().map(|task| format!("'{}'", task.name)).collect();
    format!("Invalid task type. Supported: [{}]", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_has_its_scale() {
        assert_eq!(ALL.map(|task| task.scale()), [2, 4, 2, 2]);
        assert!(TASKS.iter().all(|(name, _)| find(name).is_some()));
        assert_eq!(unknown(), "Invalid task type. Supported: ['SD2HD', 'SD24K', 'HD24K', '4K28K']");
    }
}
