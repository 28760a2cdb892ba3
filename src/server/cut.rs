//! Why a connection is cut, in words for the log and the counters.

/// Why a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Cut {
    /// Streams that are opened and reset at once: CVE-2023-44487, CVE-2019-9514.
    #[error("too many resets of streams")]
    Resets,
    /// Frames that carry nothing: SETTINGS (CVE-2019-9515), PING (CVE-2019-9512), PRIORITY (CVE-2019-9513), empty DATA
    /// and HEADERS (CVE-2019-9518, CVE-2019-9516), CONTINUATION (CVE-2023-45288, RUSTSEC-2024-0332), and unknown kinds.
    #[error("too many frames that carry nothing")]
    Idle,
    /// Windows opened by a few bytes at a time (CVE-2019-9511, CVE-2019-9517).
    #[error("too many updates of windows")]
    Windows,
    /// The library has had enough: of streams that it had to reset (CVE-2025-8671), or of DATA in small pieces.
    #[error("too much of what the library must refuse")]
    Refusals,
    /// Frames that are none of HTTP/2, or out of their order.
    #[error("frames that break the protocol")]
    Broken,
    /// The preface or a head did not come whole in its time.
    #[error("a head came too slowly")]
    Slow,
    /// A request has no whole reply in its time.
    #[error("a request took too long")]
    Overdue,
    /// Replies are not taken, or a few bytes at a time.
    #[error("replies were taken too slowly")]
    Unread,
}

impl Cut {
    /// The word under which it is counted.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Resets => "flood_resets",
            Self::Idle => "flood_idle",
            Self::Windows => "flood_windows",
            Self::Refusals => "flood_refusals",
            Self::Broken => "protocol",
            Self::Slow => "slow",
            Self::Overdue => "overdue",
            Self::Unread => "unread",
        }
    }
}
