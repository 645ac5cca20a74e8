// Kinesis' mocks have no option for the address that they listen on: preloaded, this makes it loopback.
'use strict';
const { Server } = require('node:net');
const { listen } = Server.prototype;

Server.prototype.listen = function (first, ...rest) {
  if (first !== null && typeof first === 'object' && 'port' in first) {
    return listen.call(this, { ...first, host: '127.0.0.1' }, ...rest);
  }
  if (/^\d+$/.test(String(first))) {
    return listen.call(this, { port: Number(first), host: '127.0.0.1' }, ...rest.filter((arg) => typeof arg === 'function'));
  }
  return listen.call(this, first, ...rest);
};

// LocalStack starts its mock in a session of its own, and leaves it behind when it is killed.
if (process.env.TEST_SERVERS_END_WITH_PARENT) {
  const parent = process.ppid;
  setInterval(() => process.ppid === parent || process.exit(), 50).unref();
}
