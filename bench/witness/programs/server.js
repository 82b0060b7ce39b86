// A server in Node: server.js ADDRESS PORT IDLE-SECONDS [CERT KEY].
'use strict';
const fs = require('fs');
const [, , host, port, idle, cert, key] = process.argv;

const log = (what, q, error) => console.log(JSON.stringify({
  who: 'server', what, id: q.url.split('?')[0].split('/').pop(), time: Date.now() / 1000,
  peer: q.socket.remotePort, error,
}));

// after calls f once the request's body has been read.
const after = (q, f) => { q.resume(); q.on('end', f); };

const actions = {
  slow: (q, r, ms) => after(q, () => setTimeout(() => r.end('slow\n'), ms)),
  big: (q, r, size) => {
    let n = 0;
    const more = () => {
      if (r.destroyed) return;
      if (n++ === 20) return r.end();
      r.write('y'.repeat(size || 5000));
      setTimeout(more, 15);
    };
    more();
  },
  trunc: (q, r) => {
    r.setHeader('Content-Length', 10000);
    r.write('t'.repeat(3000));
    setTimeout(() => r.destroy(), 30);
  },
  truncchunk: (q, r) => { r.write('t'.repeat(8000)); setTimeout(() => r.destroy(), 30); },
  crash: (q) => after(q, () => q.socket.destroy()),
  reset: (q) => after(q, () => q.socket.resetAndDestroy()),
  unread: (q, r) => { r.writeHead(413, { Connection: 'close' }); r.end(); },
  unreadclose: (q) => q.socket.destroy(),
  closeme: (q, r) => { r.setHeader('Connection', 'close'); r.end('bye\n'); },
};

const handle = (q, r) => {
  log('begin', q);
  r.on('finish', () => log('end', q));
  r.on('close', () => { if (!r.writableFinished) log('abort', q); });
  const [, name, number] = /[?&]do=([a-z]*)(\d*)/.exec(q.url) || [null, '', ''];
  if (actions[name]) return actions[name](q, r, +number);
  after(q, () => r.end('ok\n'));
};

const options = { connectionsCheckingInterval: 300 };
const server = cert
  ? require('https').createServer({ ...options, cert: fs.readFileSync(cert), key: fs.readFileSync(key) }, handle)
  : require('http').createServer(options, handle);
server.keepAliveTimeout = idle * 1000;
server.headersTimeout = 2000;
server.requestTimeout = 3000;
server.on('upgrade', (q, socket) => {
  log('begin', q);
  socket.on('error', () => {});
  socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n');
  // An echo, and then a close frame with code 1001.
  socket.on('data', (d) => { socket.write(d); setTimeout(() => socket.end(Buffer.from([0x88, 2, 0x03, 0xe9])), 100); });
});
server.on('clientError', (e, socket) => {
  // What Node does by itself, and a line in the log.
  console.log(JSON.stringify({ who: 'server', what: 'client-error', time: Date.now() / 1000, peer: socket.remotePort, error: e.code }));
  if (!socket.writable || e.code === 'ECONNRESET') return socket.destroy(e);
  const status = e.code === 'ERR_HTTP_REQUEST_TIMEOUT' ? '408 Request Timeout' : '400 Bad Request';
  socket.write(`HTTP/1.1 ${status}\r\nConnection: close\r\n\r\n`);
  socket.destroy(e);
});
server.listen(+port, host);
process.on('SIGTERM', () => { server.close(() => process.exit(0)); setTimeout(() => process.exit(0), 3000); });
