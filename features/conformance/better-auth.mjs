// The official better-auth client, as published, against the auth wire at WOPR_API_URL.
//
// Exits with 1 at the first difference. With WOPR_MAIL_URL (the mail catcher of the local stack) the password is also
// reset through the link in the mail; without it that one journey is left out, and the output says so.
// The server allows five sign-ins in fifteen minutes from one address; a run needs four.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { createAuthClient } from "better-auth/client";

const api = (process.env.WOPR_API_URL ?? "http://localhost:3100").replace(/\/$/, "");
const origin = process.env.WOPR_UI_ORIGIN ?? "http://localhost:3000";
const mailUrl = process.env.WOPR_MAIL_URL?.replace(/\/$/, "");

// What a browser does for the client and Node does not: keep cookies, and say which page is asking.
function browser() {
  const jar = new Map();
  const answers = [];
  const fetchAsPage = async (input, init = {}) => {
    const headers = new Headers(init.headers);
    headers.set("origin", origin);
    if (jar.size > 0) headers.set("cookie", [...jar].map(([name, value]) => `${name}=${value}`).join("; "));
    const response = await fetch(input, { ...init, headers, redirect: "manual" });
    for (const cookie of response.headers.getSetCookie()) {
      const [pair, ...attributes] = cookie.split(";").map((part) => part.trim());
      const at = pair.indexOf("=");
      const gone = attributes.some((attribute) => attribute.toLowerCase() === "max-age=0");
      if (gone) jar.delete(pair.slice(0, at));
      else jar.set(pair.slice(0, at), pair.slice(at + 1));
    }
    answers.push({ url: String(input), status: response.status });
    return response;
  };
  const client = createAuthClient({ baseURL: api, fetchOptions: { customFetchImpl: fetchAsPage } });
  return { client, jar, answers, fetchAsPage };
}

let passed = 0;
async function check(what, body) {
  try {
    await body();
    passed += 1;
    console.log(`ok   ${what}`);
  } catch (error) {
    console.error(`FAIL ${what}\n${error.stack ?? error}`);
    process.exit(1);
  }
}

function succeeded({ data, error }) {
  assert.equal(error, null, `refused: ${JSON.stringify(error)}`);
  return data;
}

function refused({ data, error }, status, code) {
  assert.equal(data, null);
  assert.equal(error?.status, status, `${JSON.stringify(error)}`);
  assert.equal(error.code, code);
}

const email = `conformance-${randomBytes(6).toString("hex")}@example.com`;
const password = "Testpass1";
const laptop = browser();
const phone = browser();
const id = /^[a-zA-Z0-9]{32}$/;
let user;

await check("sign-up answers a user and signs in", async () => {
  const data = succeeded(await laptop.client.signUp.email({ name: "Test User", email: email.toUpperCase(), password }));
  user = data.user;
  assert.match(data.token, id);
  assert.match(user.id, id);
  assert.equal(user.email, email);
  assert.equal(user.name, "Test User");
  assert.equal(user.emailVerified, false);
  assert.ok(user.image === null && user.createdAt instanceof Date && user.updatedAt instanceof Date);
  assert.ok([...laptop.jar.keys()].some((name) => name.endsWith("better-auth.session_token")));
});

await check("the same address again is refused", async () => {
  const again = await browser().client.signUp.email({ name: "Test User", email, password });
  refused(again, 422, "USER_ALREADY_EXISTS_USE_ANOTHER_EMAIL");
});

await check("bad input is refused by name", async () => {
  const nobody = browser();
  const address = await nobody.client.signUp.email({ name: "x", email: "nobody", password });
  refused(address, 400, "VALIDATION_ERROR");
  assert.equal(address.error.message, "[body.email] Invalid email address");
  refused(await nobody.client.signUp.email({ name: "x", email: `x${email}`, password: "short" }), 400, "PASSWORD_TOO_SHORT");
  refused(
    await nobody.client.signUp.email({ name: "x", email: `x${email}`, password: "x".repeat(129) }),
    400,
    "PASSWORD_TOO_LONG",
  );
});

await check("get-session shows the session and its user", async () => {
  const data = succeeded(await laptop.client.getSession());
  assert.deepEqual(data.user, { ...user, ...data.user });
  assert.equal(data.session.userId, user.id);
  assert.match(data.session.token, id);
  const days = (data.session.expiresAt - data.session.createdAt) / 86_400_000;
  assert.equal(days, 7);
});

await check("without a cookie get-session is null and not an error", async () => {
  assert.equal(succeeded(await browser().client.getSession()), null);
});

await check("update-user changes the name", async () => {
  assert.deepEqual(succeeded(await laptop.client.updateUser({ name: "New Name" })), { status: true });
  assert.equal(succeeded(await laptop.client.getSession()).user.name, "New Name");
});

await check("list-accounts shows the password", async () => {
  const accounts = succeeded(await laptop.client.listAccounts());
  assert.equal(accounts.length, 1);
  assert.equal(accounts[0].providerId, "credential");
  assert.equal(accounts[0].userId, user.id);
});

await check("sign-out ends the session", async () => {
  const cookies = new Map(laptop.jar);
  assert.deepEqual(succeeded(await laptop.client.signOut()), { success: true });
  assert.equal(succeeded(await laptop.client.getSession()), null);
  for (const [name, value] of cookies) laptop.jar.set(name, value);
  assert.equal(succeeded(await laptop.client.getSession()), null, "the old cookie lets nobody in");
  const listed = await laptop.client.listSessions();
  assert.equal(listed.error?.status, 401);
});

await check("a wrong password is refused", async () => {
  refused(await laptop.client.signIn.email({ email, password: "Testpass2" }), 401, "INVALID_EMAIL_OR_PASSWORD");
});

await check("sign-in answers a user", async () => {
  for (const { client } of [laptop, phone]) {
    const data = succeeded(await client.signIn.email({ email, password }));
    assert.equal(data.redirect, false);
    assert.equal(data.user.id, user.id);
    assert.match(data.token, id);
  }
});

await check("sessions are listed, and one is revoked", async () => {
  const sessions = succeeded(await laptop.client.listSessions());
  assert.equal(sessions.length, 2);
  const own = succeeded(await laptop.client.getSession()).session;
  const other = sessions.find((session) => session.id !== own.id);
  assert.equal(sessions.find((session) => session.id === own.id).token, own.token);
  assert.deepEqual(succeeded(await laptop.client.revokeSession({ token: other.token })), { status: true });
  assert.equal(succeeded(await phone.client.getSession()), null);
  assert.equal(succeeded(await laptop.client.listSessions()).length, 1);
});

await check("a changed password replaces the session when asked to", async () => {
  refused(
    await laptop.client.changePassword({ currentPassword: "Testpass2", newPassword: "Testpass3" }),
    400,
    "INVALID_PASSWORD",
  );
  const before = succeeded(await laptop.client.getSession()).session.token;
  const data = succeeded(
    await laptop.client.changePassword({
      currentPassword: password,
      newPassword: "Testpass3",
      revokeOtherSessions: true,
    }),
  );
  assert.match(data.token, id);
  assert.notEqual(data.token, before);
  assert.equal(succeeded(await laptop.client.getSession()).session.token, data.token);
});

await check("a password reset answers the same for everybody", async () => {
  const redirectTo = `${origin}/reset`;
  const known = succeeded(await phone.client.requestPasswordReset({ email, redirectTo }));
  const unknown = succeeded(await phone.client.requestPasswordReset({ email: `x${email}`, redirectTo }));
  assert.equal(known.status, true);
  assert.deepEqual(known, unknown);
  refused(
    await phone.client.requestPasswordReset({ email, redirectTo: "https://evil.example/" }),
    403,
    "INVALID_REDIRECTURL",
  );
  refused(await phone.client.resetPassword({ newPassword: "Testpass4", token: "x".repeat(24) }), 400, "INVALID_TOKEN");
});

async function mailedLink(recipient, path) {
  const deadline = Date.now() + 20_000;
  while (Date.now() < deadline) {
    const { mails } = await (await fetch(`${mailUrl}/api/mails?to=${encodeURIComponent(recipient)}`)).json();
    for (const { id: mail } of mails) {
      const { text } = await (await fetch(`${mailUrl}/api/mails/${mail}`)).json();
      const link = text.split(/\s+/).find((word) => word.includes(path));
      if (link) return new URL(link);
    }
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  throw new Error(`no mail with a link to ${path} arrived`);
}

if (mailUrl) {
  await check("the link in the mail resets the password, once, and ends the sessions", async () => {
    const link = await mailedLink(email, "/api/auth/reset-password/");
    const followed = await phone.fetchAsPage(`${api}${link.pathname}${link.search}`);
    assert.equal(followed.status, 302);
    const target = new URL(followed.headers.get("location"));
    assert.equal(target.origin + target.pathname, `${origin}/reset`);
    const token = target.searchParams.get("token");
    assert.match(token, /^[a-zA-Z0-9]{24}$/);
    const reset = () => phone.client.resetPassword({ newPassword: "Testpass4", token });
    assert.deepEqual(succeeded(await reset()), { status: true });
    refused(await reset(), 400, "INVALID_TOKEN");
    assert.equal(succeeded(await laptop.client.getSession()), null);
    assert.equal(succeeded(await phone.client.signIn.email({ email, password: "Testpass4" })).user.id, user.id);
  });
} else {
  console.log("skip the reset through a mail: WOPR_MAIL_URL is not set");
}

console.log(`${passed} journeys of better-auth's own client passed against ${api}`);
