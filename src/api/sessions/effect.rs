//! What of a request has an effect here.
//!
//! Owns the list of fields that are accepted and do nothing, as sentences for the caller, and what `auto_discover` means.

use super::AgentKind;
use super::materialise::url;
use crate::wire::sessions::{AutoDiscover, SessionRequest};

/// What the agent finds by itself, of the user's and of the working directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own on the wire")]
pub struct Discover {
    pub claude_md: bool,
    pub settings: bool,
    pub mcp: bool,
    pub rules: bool,
    pub agents: bool,
    pub agents_md: bool,
    pub config_toml: bool,
}

impl Discover {
    pub fn of(sent: Option<&AutoDiscover>) -> Self {
        let is_on = |name: &str| match sent {
            None => true,
            Some(AutoDiscover::All(all)) => *all,
            Some(AutoDiscover::Some(map)) => map.get(name).copied().unwrap_or(false),
        };
        Self {
            claude_md: is_on("claude_md"),
            settings: is_on("settings"),
            mcp: is_on("mcp"),
            rules: is_on("rules"),
            agents: is_on("agents"),
            agents_md: is_on("agents_md"),
            config_toml: is_on("config_toml"),
        }
    }

    /// Whether Claude Code reads the folders in which it finds most of it.
    pub fn reads_sources(self) -> bool {
        self.claude_md || self.settings || self.rules || self.agents
    }

    /// Whether Claude Code reads instructions at all.
    pub fn reads_instructions(self) -> bool {
        self.claude_md || self.rules
    }

    /// What was switched off and is found all the same: the agents know coarser switches.
    fn without_effect(self, kind: AgentKind) -> Vec<&'static str> {
        let off = match kind {
            AgentKind::Claude => vec![
                ("claude_md", !self.claude_md && self.reads_instructions()),
                ("settings", !self.settings && self.reads_sources()),
                ("rules", !self.rules && self.reads_instructions()),
                ("agents", !self.agents && self.reads_sources()),
            ],
            AgentKind::Codex => vec![("config_toml", !self.config_toml)],
            AgentKind::Other | AgentKind::Plain => vec![],
        };
        off.into_iter().filter(|(_, is_void)| *is_void).map(|(name, _)| name).collect()
    }
}

/// Fields that were sent and do nothing here.
pub fn warnings(request: &SessionRequest<'_>, kind: AgentKind) -> Vec<String> {
    let container = &request.container;
    let (claude, codex) = (&request.claude, &request.codex);
    let discover = Discover::of(request.auto_discover.as_ref());
    let of_the_runtime = [
        ("pty", request.pty),
        ("persist_session", request.persist_session),
        ("container.image", !container.image.is_empty()),
        ("container.memory", !container.memory.is_empty()),
        ("container.cpus", !container.cpus.is_empty()),
        ("container.network", !container.network.is_empty()),
        ("container.security_opt", !container.security_opt.is_empty()),
        ("claude.output_format", !claude.output_format.is_empty()),
    ];
    let is_other = matches!(kind, AgentKind::Other | AgentKind::Plain);
    let (not_claude, not_codex) = (kind != AgentKind::Claude, kind != AgentKind::Codex);
    let of_the_agent = [
        ("claude.settings_json", not_claude && claude.settings_json.is_some()),
        ("claude.claude_md", not_claude && !claude.claude_md.is_empty()),
        ("claude.mcp_json", not_claude && claude.mcp_json.is_some()),
        ("claude.credentials_path", not_claude && !claude.credentials_path.is_empty()),
        ("claude.memory_path", not_claude && !claude.memory_path.is_empty()),
        ("claude.max_turns", not_claude && claude.max_turns > 0),
        ("claude.allowed_tools", not_claude && !claude.allowed_tools.is_empty()),
        ("claude.bare", not_claude && claude.bare),
        ("codex.config_toml", not_codex && codex.config_toml.is_some()),
        ("codex.instructions", not_codex && !codex.instructions.is_empty()),
        ("codex.approval_mode", not_codex && !codex.approval_mode.is_empty()),
        ("mcp_servers", is_other && !request.mcp_servers.is_empty()),
        ("resume_session", is_other && !request.resume_session.is_empty()),
        ("auto_discover", is_other && discover != Discover::of(None)),
    ];
    let sent = |fields: &[(&str, bool)], where_to: &str| {
        let sent = fields.iter().filter(|(_, is_sent)| *is_sent);
        sent.map(|(name, _)| format!("{name} has no effect on {where_to}")).collect::<Vec<_>>()
    };
    let mut all = sent(&of_the_runtime, "runtime local");
    all.extend(sent(&of_the_agent, &format!("agent {}", request.agent)));
    let void = discover.without_effect(kind).into_iter();
    all.extend(void.map(|name| format!("auto_discover.{name} has no effect on runtime local: it is discovered")));
    for server in request.mcp_servers.iter().filter(|server| !server.url.is_empty() && url(&server.url).is_none()) {
        all.push(format!("mcp_servers.{}.url has no effect: its scheme is not http, https, ws or wss", server.name));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_discovered_all_the_same() {
        let of = |json: &str| Discover::of(Some(&serde_json::from_str(json).unwrap()));
        assert_eq!(of("true"), Discover::of(None));
        let void = |json: &str, kind| of(json).without_effect(kind);
        assert!(void("false", AgentKind::Claude).is_empty() && !of("false").reads_sources());
        assert_eq!(void("false", AgentKind::Codex), ["config_toml"]);
        assert_eq!(void(r#"{"settings":true}"#, AgentKind::Claude), ["agents"]);
        assert!(!of(r#"{"settings":true}"#).reads_instructions());
        assert_eq!(void(r#"{"claude_md":true}"#, AgentKind::Claude), ["settings", "rules", "agents"]);
        assert_eq!(void(r#"{"mcp":true,"other":true}"#, AgentKind::Claude), [""; 0]);
    }
}
