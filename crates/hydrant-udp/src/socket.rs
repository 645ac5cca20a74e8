//! Sockets: names to addresses, options before the bind, and many datagrams in one system call.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};

use hydrant::{Error, Result};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use crate::error;
use crate::options::{Interface, UdpListenerOptions, UdpSinkOptions};

/// The first address that the name has.
pub(crate) async fn resolve(address: &str) -> Result<SocketAddr> {
    let mut found =
        tokio::net::lookup_host(address).await.map_err(|cause| error::resolving(cause, address))?;
    found.next().ok_or_else(|| error::resolving(io::ErrorKind::NotFound.into(), address))
}

/// A socket that sends to one target. It is connected, so that the kernel reports what the target refuses.
pub(crate) fn sending(target: SocketAddr, options: &UdpSinkOptions) -> Result<UdpSocket> {
    let interface = interface_of(target, options.multicast_interface)?;
    let open = || -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::for_address(target), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        if let Some(bytes) = options.send_buffer_bytes {
            socket.set_send_buffer_size(bytes)?;
        }
        socket.set_broadcast(true)?; // the target alone decides; without this a broadcast address is refused
        if target.ip().is_multicast() {
            match target {
                SocketAddr::V4(_) => socket.set_multicast_ttl_v4(options.multicast_ttl.into())?,
                SocketAddr::V6(_) => socket.set_multicast_hops_v6(options.multicast_ttl.into())?,
            }
            match interface {
                Some(Interface::Address(address)) => socket.set_multicast_if_v4(&address)?,
                Some(Interface::Index(index)) => socket.set_multicast_if_v6(index)?,
                None => {}
            }
        }
        socket.connect(&target.into())?;
        UdpSocket::from_std(socket.into())
    };
    open().map_err(|cause| error::opening(cause, &target.to_string()))
}

/// A socket that listens on an address, and joins the group where that is one of multicast.
pub(crate) fn listening(bind: SocketAddr, options: &UdpListenerOptions) -> Result<(UdpSocket, usize)> {
    let interface = interface_of(bind, options.multicast_interface)?;
    let open = || -> io::Result<(UdpSocket, usize)> {
        let socket = Socket::new(Domain::for_address(bind), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(options.receive_buffer_bytes)?;
        let granted = socket.recv_buffer_size()?;
        if bind.ip().is_multicast() {
            // Every listener of a group gets every datagram, so several may share the port.
            socket.set_reuse_address(true)?;
        }
        socket.bind(&bind.into())?;
        match (bind, interface) {
            (SocketAddr::V4(group), interface) if group.ip().is_multicast() => {
                let address = match interface {
                    Some(Interface::Address(address)) => address,
                    _ => Ipv4Addr::UNSPECIFIED,
                };
                socket.join_multicast_v4(group.ip(), &address)?;
            }
            (SocketAddr::V6(group), interface) if group.ip().is_multicast() => {
                let index = match interface {
                    Some(Interface::Index(index)) => index,
                    _ => group.scope_id(),
                };
                socket.join_multicast_v6(group.ip(), index)?;
            }
            _ => {}
        }
        Ok((UdpSocket::from_std(socket.into())?, granted))
    };
    open().map_err(|cause| error::opening(cause, &bind.to_string()))
}

/// IPv4 names interfaces by address, IPv6 by index.
fn interface_of(address: SocketAddr, interface: Option<Interface>) -> Result<Option<Interface>> {
    let fits = match interface {
        None => true,
        Some(Interface::Address(_)) => address.is_ipv4(),
        Some(Interface::Index(_)) => address.is_ipv6(),
    };
    let wrong = "`multicast_interface` is an address over IPv4 and an index over IPv6";
    if fits { Ok(interface) } else { Err(Error::invalid(wrong).at_target(address.to_string())) }
}

/// Hands datagrams to the kernel, each in two parts; says how many it took, at least one.
///
/// An error is about the first of them: what stops a later one shows again in the call that begins with it.
#[cfg(target_os = "linux")]
pub(crate) fn send_many(socket: &UdpSocket, datagrams: &[[&[u8]; 2]]) -> io::Result<usize> {
    use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};

    let parts: Vec<[IoSlice<'_>; 2]> = datagrams.iter().map(|parts| parts.map(IoSlice::new)).collect();
    let mut controls: Vec<_> = datagrams.iter().map(|_| SendAncillaryBuffer::default()).collect();
    let mut headers: Vec<_> =
        parts.iter().zip(&mut controls).map(|(parts, control)| MMsgHdr::new(parts, control)).collect();
    Ok(sendmmsg(socket, &mut headers, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
}

/// Hands datagrams to the kernel, each in two parts; says how many it took, at least one.
#[cfg(not(target_os = "linux"))]
pub(crate) fn send_many(socket: &UdpSocket, datagrams: &[[&[u8]; 2]]) -> io::Result<usize> {
    // `sendmmsg` is of Linux; elsewhere one call sends one datagram.
    let whole = datagrams.first().map(|parts| parts.concat()).unwrap_or_default();
    socket2::SockRef::from(socket).send(&whole).map(|_| 1)
}
