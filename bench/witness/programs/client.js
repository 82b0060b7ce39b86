// A client in Node: client.js http|fetch < SCRIPT. See script in the driver.
'use strict';
const diagnostics = require('diagnostics_channel');
const mode = process.argv[2];
const now = () => Date.now() / 1000;
const sleep = (s) => new Promise((done) => setTimeout(done, s * 1000));
const out = (s, start, o) => console.log(JSON.stringify({
  who: 'client', client: 'node-' + mode, id: s.id, ok: !o.error && !o.cancelled, start, end: now(), ports: ports[s.id], ...o,
}));

// ports holds the local ports that a request was sent from, by id.
const ports = {};
const sentFrom = (path, port) => {
  const id = path.split('?')[0].split('/').pop();
  (ports[id] = ports[id] || []).push(port);
};
diagnostics.channel('undici:client:sendHeaders').subscribe(({ request, socket }) => sentFrom(request.path, socket.localPort));

const pieces = function* (s) { for (let i = 0; i < s.pieces; i++) yield 'x'.repeat(s.body / s.pieces); };

const byFetch = async (base, s) => {
  const start = now();
  const stop = new AbortController();
  let timer;
  if (s.timeout) timer = setTimeout(() => stop.abort(), s.timeout * 1000);
  try {
    const o = { method: s.method, signal: stop.signal, headers: {} };
    if (s.pieces) {
      o.duplex = 'half';
      o.body = new ReadableStream({
        async start(c) {
          for (const p of pieces(s)) { try { c.enqueue(Buffer.from(p)); } catch { return; } await sleep(s.piece_pause); }
          try { c.close(); } catch {}
        },
      });
    } else if (s.body) o.body = 'x'.repeat(s.body);
    const r = await fetch(base + s.target, o);
    if (s.read_only) {
      const first = await r.body.getReader().read();
      stop.abort();
      return out(s, start, { status: r.status, bytes: first.value.length, cancelled: true });
    }
    const body = await r.arrayBuffer();
    out(s, start, { status: r.status, bytes: body.byteLength });
  } catch (e) {
    out(s, start, { error: `${e} ${e.cause} ${e.cause && e.cause.code}` });
  } finally {
    clearTimeout(timer);
  }
};

const byHTTP = (lib, tls, agent) => (base, s) => new Promise((resolve) => {
  const start = now();
  let done = false;
  const finish = (o) => { if (!done) { done = true; out(s, start, o); resolve(); } };
  const headers = {};
  if (s.body) headers['Content-Length'] = s.body;
  if (s.close) headers.Connection = 'close';
  const r = lib.request(base + s.target, { method: s.method, agent, headers, ...tls }, (resp) => {
    let n = 0;
    resp.on('data', (b) => {
      n += b.length;
      if (s.read_only && n >= s.read_only) { finish({ status: resp.statusCode, bytes: n, cancelled: true }); r.destroy(); }
    });
    resp.on('end', () => finish({ status: resp.statusCode, bytes: n }));
    resp.on('error', (e) => finish({ error: `response: ${e.message} ${e.code}`, status: resp.statusCode, bytes: n }));
  });
  r.on('socket', (socket) => {
    const note = () => sentFrom(s.target, socket.localPort);
    if (socket.localPort) note(); else socket.once('connect', note);
  });
  r.on('error', (e) => finish({ error: `${e.message} ${e.code}` }));
  if (s.timeout) setTimeout(() => { if (!done) r.destroy(new Error('the time-out of the script')); }, s.timeout * 1000);
  if (!s.pieces) return r.end(s.body ? 'x'.repeat(s.body) : undefined);
  (async () => {
    for (const p of pieces(s)) { if (done) return; r.write(p); await sleep(s.piece_pause); }
    r.end();
  })();
});

const main = async (script) => {
  const secure = script.base.startsWith('https');
  if (secure) process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0';
  const lib = require(secure ? 'https' : 'http');
  const tls = script.tls === '1.2' ? { maxVersion: 'TLSv1.2' } : {};
  if (tls.maxVersion) require('tls').DEFAULT_MAX_VERSION = tls.maxVersion;
  await Promise.all(script.conns.map(async (conn) => {
    const agent = new lib.Agent({ keepAlive: true, maxSockets: 1, ...tls });
    const send = mode === 'fetch' ? byFetch : byHTTP(lib, tls, agent);
    for (const s of conn) {
      await sleep(s.pause || 0);
      await send(script.base, s);
    }
    await sleep(script.linger);
    agent.destroy();
  }));
  process.exit(0);
};

let input = '';
process.stdin.on('data', (d) => { input += d; }).on('end', () => main(JSON.parse(input)));
