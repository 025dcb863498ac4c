// An upstream as there are many: it closes connections that are idle for 5 s,
// which is Node's default. (Node 20 announces 5 s and waits 1 s longer.)
'use strict';
const server = require('http').createServer((request, response) => {
	request.resume();
	request.on('end', () => response.end('ok\n'));
});
server.keepAliveTimeout = Number(process.env.KEEP_ALIVE_MS || 5000);
server.listen({ host: '127.0.0.1', port: Number(process.env.UPSTREAM_PORT || 8081) });
