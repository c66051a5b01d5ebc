//! One outbound key of several connections.

use super::*;

/// The same client's connection to a server by another service each.
fn of_service(port: u16) -> Conn<Addr4> {
    let conn = fullnat::<Addr4>(0);
    Conn {
        flags: conn.flags,
        protocol: conn.protocol,
        timeout_ms: conn.timeout_ms,
        ..Conn::between(conn.client(), end(0xc612_0001, port), conn.real(), conn.local())
    }
}

#[test]
fn the_newest_of_several_connections_has_their_outbound_key_and_older_ones_get_it_back() {
    let mut table = table::<Addr4>(64, [1, 2, 3, 4]);
    let key = fullnat::<Addr4>(0).outbound_key();
    let all: Vec<_> = (80..83)
        .map(|port| table.insert(of_service(port), Tick(0)).unwrap())
        .collect();
    let newest = |table: &ConnTable<Addr4>| find(table, &key).map(|(index, _)| index);
    assert_eq!(newest(&table), Some(all[2]));
    table.remove(all[1]);
    assert_sound(&table);
    table.remove(all[2]);
    assert_eq!(newest(&table), Some(all[0]), "the middle one went first");
    table.remove(all[0]);
    assert_eq!(newest(&table), None);
    for port in 0..SAME_OUTBOUND_MAX as u16 {
        table.insert(of_service(port), Tick(0)).unwrap();
    }
    assert_eq!(table.insert(of_service(99), Tick(0)), Err(InsertError::Exists));
    assert_sound(&table);
}

#[test]
fn a_connection_that_begins_anew_gets_the_outbound_key_of_several_back() {
    let key = fullnat::<Addr4>(0).outbound_key();
    for again in 0..3 {
        let mut table = table::<Addr4>(64, [1, 2, 3, 4]);
        let all: Vec<_> = (80..83)
            .map(|port| table.insert(of_service(port), Tick(0)).unwrap())
            .collect();
        let newest = |table: &ConnTable<Addr4>| find(table, &key).map(|(index, _)| index);
        table.make_newest(all[again]);
        assert_eq!(newest(&table), Some(all[again]));
        assert_sound(&table);
        table.remove(all[again]);
        let next = if again == 2 { all[1] } else { all[2] };
        assert_eq!(newest(&table), Some(next), "the others keep their order");
        assert_sound(&table);
    }
}
