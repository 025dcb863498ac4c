// node server.js http/1.1|h2 <port> <keep-alive timeout in ms>
'use strict';
const fs = require('fs');
const [protocol, port, timeout] = process.argv.slice(2);
const done = fs.openSync('done', 'a');

let ending = false;

function answer(request, response) {
	if (ending && protocol !== 'h2') {
		response.setHeader('Connection', 'close'); // or a busy client keeps it for ever
	}
	request.resume();
	request.on('end', () => {
		fs.writeSync(done, `${request.method} ${request.url}\n`);
		response.end('ok\n');
	});
}

let server;
const sessions = new Set();
if (protocol === 'h2') {
	const options = { key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem') };
	server = require('http2').createSecureServer(options, answer);
	server.on('session', (session) => {
		sessions.add(session);
		session.on('close', () => sessions.delete(session));
		session.setTimeout(Number(timeout), () => session.close());
	});
} else {
	server = require('http').createServer(answer);
	server.keepAliveTimeout = Number(timeout);
}
server.listen({ host: '127.0.0.1', port: Number(port), backlog: 1024 });
process.on('SIGTERM', () => {
	ending = true;
	server.close(() => process.exit(0));
	sessions.forEach((session) => session.close());
});
