// SPDX-License-Identifier: GPL-2.0-or-later
// node repo.js FOLDER: writes two repositories made by TUF's JavaScript implementation:
// FOLDER/mock by @tufjs/repo-mock, and FOLDER/delegated from @tufjs/models with consistent
// snapshots, a delegation by path, one by hash prefix, ed25519 and ECDSA keys, a threshold of 2.
const crypto = require('crypto');
const fs = require('fs');
const path = require('path');
const { initializeTUFRepo } = require('@tufjs/repo-mock');
const tuf = require('@tufjs/models');
const { Delegations, DelegatedRole } = {
	...require('@tufjs/models/dist/delegations'), ...require('@tufjs/models/dist/role') };

const folder = process.argv[2];
const sha256 = (data) => crypto.createHash('sha256').update(data).digest('hex');

function write(name, data) {
	const file = path.join(folder, name);
	fs.mkdirSync(path.dirname(file), { recursive: true });
	fs.writeFileSync(file, data);
}

function mock() {
	const targets = [
		{ name: 'a.txt', content: Buffer.from('hello') },
		{ name: 'x/y.txt', content: Buffer.from('world') },
	];
	const repo = initializeTUFRepo(targets);
	write('mock/metadata/1.root.json', JSON.stringify(repo.rootMeta.toJSON()));
	write('mock/metadata/timestamp.json', JSON.stringify(repo.timestampMeta.toJSON()));
	write('mock/metadata/snapshot.json', JSON.stringify(repo.snapshotMeta.toJSON()));
	write('mock/metadata/targets.json', JSON.stringify(repo.targetsMeta.toJSON()));
	for (const target of targets) write('mock/targets/' + target.name, target.content);
}

function newKey(kind) {
	const pair = kind === 'ed25519'
		? crypto.generateKeyPairSync('ed25519')
		: crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' });
	const spki = pair.publicKey.export({ format: 'der', type: 'spki' });
	const meta = kind === 'ed25519'
		? { keyType: 'ed25519', scheme: 'ed25519',
			keyVal: { public: spki.subarray(-32).toString('hex') } }
		: { keyType: 'ecdsa', scheme: 'ecdsa-sha2-nistp256',
			keyVal: { public: pair.publicKey.export({ format: 'pem', type: 'spki' }) } };
	const keyID = sha256(JSON.stringify(meta));
	return {
		key: new tuf.Key({ keyID, ...meta }),
		sign: (data) => new tuf.Signature({
			keyID,
			sig: crypto.sign(kind === 'ed25519' ? null : 'sha256', data, pair.privateKey)
				.toString('hex'),
		}),
	};
}

function delegated() {
	const expires = new Date(Date.now() + 30 * 86400e3).toISOString().replace(/\.\d+/, '');
	const common = { version: 1, specVersion: '1.0.0', expires };
	const ed = newKey('ed25519'), ec = newKey('ecdsa'), feed = newKey('ed25519');
	const signed = (body, ...keys) => {
		const meta = new tuf.Metadata(body);
		for (const key of keys) meta.sign((data) => key.sign(data), true);
		return JSON.stringify(meta.toJSON());
	};
	const file = (name, text) => new tuf.TargetFile({
		path: name, length: text.length, hashes: { sha256: sha256(text) },
		unrecognizedFields: { custom: { level: 1, 'caf\u00e9 "\\': 'text' } },
	});
	const hashed = 'hashed/file', byPath = 'main/db/7a14/1-fix.cpatch';
	const role = (name, more) => new DelegatedRole({
		name, keyIDs: [feed.key.keyID], threshold: 1, terminating: true, ...more });
	const targets = new tuf.Targets({ ...common, delegations: new Delegations({
		keys: { [feed.key.keyID]: feed.key },
		roles: {
			main: role('main', { paths: ['main/*/7*/*'] }),
			bin: role('bin', { pathHashPrefixes: [sha256(hashed).slice(0, 3)] }),
		},
	}) });
	const main = new tuf.Targets(common), bin = new tuf.Targets(common);
	main.addTarget(file(byPath, 'a patch'));
	bin.addTarget(file(hashed, 'a file'));
	const text = { targets: signed(targets, ed), main: signed(main, feed), bin: signed(bin, feed) };
	const meta = (data) => new tuf.MetaFile({
		version: 1, length: Buffer.byteLength(data), hashes: { sha256: sha256(data) } });
	const snapshot = signed(new tuf.Snapshot({ ...common, meta: Object.fromEntries(
		Object.entries(text).map(([name, data]) => [name + '.json', meta(data)])) }), ec);
	const timestamp = signed(new tuf.Timestamp({ ...common, snapshotMeta: meta(snapshot) }), ed);
	const root = new tuf.Root({ ...common, consistentSnapshot: true });
	for (const name of ['root', 'targets', 'snapshot', 'timestamp']) {
		root.addKey(ed.key, name);
		root.addKey(ec.key, name);
	}
	root.roles.root.threshold = 2;
	write('delegated/metadata/1.root.json', signed(root, ed, ec));
	write('delegated/metadata/timestamp.json', timestamp);
	write('delegated/metadata/1.snapshot.json', snapshot);
	for (const name of Object.keys(text)) write(`delegated/metadata/1.${name}.json`, text[name]);
	write(`delegated/targets/main/db/7a14/${sha256('a patch')}.1-fix.cpatch`, 'a patch');
	write(`delegated/targets/hashed/${sha256('a file')}.file`, 'a file');
}

mock();
delegated();
