//! Who acts in a journey.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::http::{Client, Jar, Reply, Request};

/// The session's cookie, without the prefix that https adds.
pub const SESSION_COOKIE: &str = "better-auth.session_token";

/// A customer with a browser of their own.
#[derive(Debug, Clone)]
pub struct Person {
    /// Their name in the feature.
    pub name: String,
    /// Their address.
    pub email: String,
    /// Their password.
    pub password: String,
    /// Their cookies.
    pub jar: Jar,
    /// Their user id, which is their tenant's, once signed up.
    pub tenant: Option<String>,
    /// Their bot, once created.
    pub bot: Option<String>,
    /// The checkout they opened last.
    pub checkout: Option<Checkout>,
    client: Client,
    api: String,
}

/// A checkout that was opened.
#[derive(Debug, Clone)]
pub struct Checkout {
    /// Stripe's id of it.
    pub session_id: String,
    /// The page to pay on.
    pub url: String,
}

impl Person {
    /// Somebody who has no account yet.
    pub fn new(client: &Client, api: &str, name: &str, email: String) -> Self {
        Self {
            name: name.to_owned(),
            email,
            password: "Testpass1".to_owned(),
            jar: Jar::default(),
            tenant: None,
            bot: None,
            checkout: None,
            client: client.from_elsewhere(),
            api: api.to_owned(),
        }
    }

    /// Sends a request with their cookies, and keeps what the answer sets.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn send(&mut self, request: Request) -> Result<Reply> {
        let reply = self.send_as_is(request.cookies(&self.jar)).await?;
        self.jar.take_from(&reply.headers);
        Ok(reply)
    }

    /// Sends a request from their address, without their cookies.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn send_as_is(&self, request: Request) -> Result<Reply> {
        self.client.send(request).await
    }

    /// Posts JSON to the auth wire.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn auth(&mut self, path: &str, body: &Value) -> Result<Reply> {
        self.send(Request::post(format!("{}/api/auth{path}", self.api)).json(body)).await
    }

    /// Asks a tRPC query.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn query(&mut self, procedure: &str, input: &Value) -> Result<Reply> {
        self.send(Request::query(&self.api, procedure, input)).await
    }

    /// Calls a tRPC mutation.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn mutate(&mut self, procedure: &str, input: &Value) -> Result<Reply> {
        self.send(Request::mutation(&self.api, procedure, input)).await
    }

    /// Signs up with what they have.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn sign_up(&mut self) -> Result<Reply> {
        let body = json!({ "name": self.name, "email": self.email, "password": self.password });
        let reply = self.auth("/sign-up/email", &body).await?;
        if reply.status == 200 {
            self.tenant = reply.json()?["user"]["id"].as_str().map(str::to_owned);
        }
        Ok(reply)
    }

    /// Signs in with what they have.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn sign_in(&mut self) -> Result<Reply> {
        let body = json!({ "email": self.email, "password": self.password });
        self.auth("/sign-in/email", &body).await
    }

    /// Their balance in cents.
    ///
    /// # Errors
    /// When the platform does not tell.
    pub async fn balance_cents(&mut self) -> Result<i64> {
        let data = self.query("billing.creditsBalance", &json!({})).await?.data()?;
        data["balance_cents"].as_i64().with_context(|| format!("no balance in {data}"))
    }

    /// Their bot as the platform describes it.
    ///
    /// # Errors
    /// When they have none, or the platform does not tell.
    pub async fn get_bot(&mut self) -> Result<Value> {
        let id = self.bot_id()?.to_owned();
        self.query("fleet.getInstance", &json!({ "id": id })).await?.data()
    }

    /// Destroys every bot they have.
    ///
    /// # Errors
    /// When the platform refuses.
    pub async fn destroy_bots(&mut self) -> Result<()> {
        let data = self.query("fleet.listInstances", &Value::Null).await?.data()?;
        for bot in data["bots"].as_array().into_iter().flatten() {
            let input = json!({ "id": bot["id"], "action": "destroy" });
            self.mutate("fleet.controlInstance", &input).await?.expect_status(200)?;
        }
        Ok(())
    }

    /// The id of their bot.
    ///
    /// # Errors
    /// When they have not created one.
    pub fn bot_id(&self) -> Result<&str> {
        self.bot.as_deref().with_context(|| format!("{} has no bot", self.name))
    }

    /// Their tenant's id.
    ///
    /// # Errors
    /// When they have not signed up.
    pub fn tenant(&self) -> Result<&str> {
        self.tenant.as_deref().with_context(|| format!("{} has not signed up", self.name))
    }
}
