// SPDX-License-Identifier: GPL-2.0-or-later
// node client.js URL METADATA-FOLDER TARGET-FOLDER PATH...: downloads by TUF's JavaScript client.
const { Updater } = require('tuf-js');

async function main() {
	const [url, metadataDir, targetDir, ...names] = process.argv.slice(2);
	const updater = new Updater({
		metadataDir, targetDir, metadataBaseUrl: url + '/metadata', targetBaseUrl: url + '/targets',
	});
	await updater.refresh();
	for (const name of names) {
		const target = await updater.getTargetInfo(name);
		if (!target) throw new Error(`no target ${name}`);
		console.log(await updater.downloadTarget(target));
	}
}

main().catch((error) => {
	console.error(String(error));
	process.exit(1);
});
