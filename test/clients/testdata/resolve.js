// SPDX-License-Identifier: Apache-2.0
//
// Asks with Node's dns.resolve, one query for each type.

const { promises: dns } = require("dns");

const [kind, name] = process.argv.slice(2);

async function addresses(resolve) {
  try {
    for (const address of await resolve(name)) console.log("address", address);
  } catch (err) {
    if (err.code === "ENOTFOUND") console.log("not found");
    else if (err.code !== "ENODATA") throw err;
  }
}

async function main() {
  if (kind === "text") {
    for (const chunks of await dns.resolveTxt(name)) console.log("text", chunks.join("").length);
    return;
  }
  await Promise.all([addresses(dns.resolve4), addresses(dns.resolve6)]);
}

main().catch((err) => {
  console.error(err);
  process.exitCode = 1;
});
