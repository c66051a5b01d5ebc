//! What `CTRL_CMD_GETPOLICY` says of IPVS: which attributes its commands take, and of which types.
//!
//! In:  a command, or none for all. Out: messages of a dump. Ref: Linux net/netlink/genetlink.c `ctrl_dumppolicy()`,
//! net/netlink/policy.c, ip_vs_ctl.c `ip_vs_cmd_policy`.

use super::attribute::Writer;
use super::reply::{Addressee, OPERATIONS, control};
use super::{FAMILY_ID, command};

/// `CTRL_ATTR_*`.
const ATTRIBUTE_ID: u16 = 1;
const ATTRIBUTE_POLICY: u16 = 8;
const ATTRIBUTE_COMMAND_POLICY: u16 = 9;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// `GENL_CMD_CAP_DO`, `GENL_CMD_CAP_DUMP`; the numbers of `CTRL_ATTR_POLICY_DO` and `_DUMP` beside them.
const DO: (u32, u16) = (0x02, 1);
const DUMP: (u32, u16) = (0x04, 2);
/// `NL_ATTR_TYPE_*`.
const TYPE_U32: u32 = 4;
const TYPE_NESTED: u32 = 13;
/// `NL_POLICY_TYPE_ATTR_*`.
const OF_TYPE: u16 = 1;
const LEAST: u16 = 4;
const MOST: u16 = 5;
/// All commands have the same policy, which is number 0.
const INDEX: u16 = 0;

/// Service, destination, daemon; then three timeouts.
const TYPES: [(u16, u32); 6] = [
    (1, TYPE_NESTED),
    (2, TYPE_NESTED),
    (3, TYPE_NESTED),
    (4, TYPE_U32),
    (5, TYPE_U32),
    (6, TYPE_U32),
];

/// Whether there is a command of this number.
pub(super) fn knows(number: u32) -> bool {
    OPERATIONS.iter().any(|(command, _)| u32::from(*command) == number)
}

/// The messages.
pub fn policy(to: Addressee, of_command: Option<u32>) -> Vec<Vec<u8>> {
    let operations = OPERATIONS
        .iter()
        .filter(|(command, _)| of_command.is_none_or(|wanted| wanted == u32::from(*command)));
    let commands = operations.map(|(command, capabilities)| {
        message(to, |answer| {
            answer.put_nested(ATTRIBUTE_COMMAND_POLICY | NESTED, |nest| {
                nest.put_nested(u16::from(*command) | NESTED, |policies| {
                    for (capability, kind) in [DO, DUMP] {
                        if capabilities & capability != 0 {
                            policies.put_u32(kind, u32::from(INDEX));
                        }
                    }
                });
            });
        })
    });
    let attributes = TYPES.iter().map(|(attribute, kind)| {
        message(to, |answer| {
            answer.put_nested(ATTRIBUTE_POLICY | NESTED, |nest| {
                nest.put_nested(INDEX | NESTED, |policy| {
                    policy.put_nested(*attribute | NESTED, |description| describe(description, *kind));
                });
            });
        })
    });
    commands.chain(attributes).collect()
}

fn describe(description: &mut Writer, kind: u32) {
    if kind == TYPE_U32 {
        description.put_u64(LEAST, 0).put_u64(MOST, u64::from(u32::MAX));
    }
    description.put_u32(OF_TYPE, kind);
}

fn message(to: Addressee, fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
    control(to, command::CTRL_GET_POLICY, |answer| {
        answer.put_u16(ATTRIBUTE_ID, FAMILY_ID);
        fill(answer);
    })
}
