//! Chat templates: any text renders or fails, within the limits on work and output.
#![no_main]

use libfuzzer_sys::fuzz_target;
use verve_chat::{ChatInput, ChatTemplate, Limits, Message, Role, SpecialTexts};

fuzz_target!(|data: &[u8]| {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let Ok(template) = ChatTemplate::new(source, SpecialTexts::default()) else { return };
    let messages = [Message::new(Role::System, "Be <|brief|>."), Message::new(Role::User, "hello\n{{ x }}")];
    if let Ok(text) = template.render(&ChatInput::new(&messages)) {
        assert!(text.len() <= Limits::default().output_bytes + 4096, "{} bytes", text.len());
    }
    template.abilities();
});
