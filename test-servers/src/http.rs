//! As much HTTP as it takes to ask a server whether it is there, and for a bucket.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// No server on loopback takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends one request on a connection of its own and returns the status and the body of the answer.
///
/// # Errors
/// If there is no answer, or one that is not HTTP.
pub fn request(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let headers: String = headers.iter().flat_map(|(name, value)| [name, ": ", value, "\r\n"]).collect();
    let length = body.len();
    let line = format!("{method} {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n");
    stream.write_all(format!("{line}{headers}content-length: {length}\r\n\r\n{body}").as_bytes())?;
    let mut answer = Vec::new();
    // Some servers end the connection with a reset once they have answered.
    if let Err(error) = stream.read_to_end(&mut answer)
        && answer.is_empty()
    {
        return Err(error);
    }
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
    let status = status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "this is not HTTP"))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

/// Returns whether a server answers to `GET path`, with whatever status.
pub(crate) fn answers(to: SocketAddr, path: &str) -> bool {
    request(to, "GET", path, &[], "").is_ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn answered(bytes: &'static [u8]) -> io::Result<(u16, String)> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let n = stream.read(&mut request).unwrap();
            stream.write_all(bytes).unwrap();
            String::from_utf8_lossy(&request[..n]).into_owned()
        });
        let answer = request(to, "PUT", "/a", &[("x-b", "c")], "body");
        let sent = server.join().unwrap();
        assert!(sent.starts_with("PUT /a HTTP/1.1\r\n") && sent.contains("x-b: c\r\n"), "{sent}");
        answer
    }

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        let (status, body) = answered(b"HTTP/1.1 404 Not Found\r\nx: y\r\n\r\nnothing\r\n\r\nhere").unwrap();
        assert_eq!((status, body.as_str()), (404, "nothing\r\n\r\nhere"));
    }

    #[test]
    fn what_is_not_http_is_an_error() {
        assert_eq!(answered(b"S").unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(answered(b"").is_err());
    }
}
