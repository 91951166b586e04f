// SPDX-License-Identifier: Apache-2.0
//
// Asks with Node's dns.lookup, which calls getaddrinfo on a thread.

const dns = require("dns");

dns.lookup(process.argv[3], { all: true }, (err, found) => {
  if (err && err.code === "ENOTFOUND") return console.log("not found");
  if (err) throw err;
  for (const { address } of found) console.log("address", address);
});
