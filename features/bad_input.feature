Feature: Input that no client of ours sends
  Whatever arrives from outside is answered as the sender's mistake, never as ours.

  Scenario Outline: Bodies that make no sense: <body>
    Given Ada has signed up
    When Ada sends "<body>" to "/trpc/fleet.createInstance"
    Then the answer is an error of the sender's, and says so without a trace of our inside
    When Ada sends "<body>" to "/trpc/billing.creditsCheckout"
    Then the answer is an error of the sender's, and says so without a trace of our inside
    When Ada sends "<body>" to "/trpc/fleet.controlInstance"
    Then the answer is an error of the sender's, and says so without a trace of our inside
    When Ada sends "<body>" to "/api/billing/webhook"
    Then the answer is an error of the sender's, and says so without a trace of our inside
    When Ada sends "<body>" to "/api/auth/sign-up/email"
    Then the answer is an error of the sender's, and says so without a trace of our inside
    When Ada sends "<body>" to "/api/auth/sign-in/email"
    Then the answer is an error of the sender's, and says so without a trace of our inside
    When Ada sends "<body>" to "/fleet/bots"
    Then the answer is an error of the sender's, and says so without a trace of our inside
    And Ada has no bots

    Examples:
      | body                   |
      | nothing                |
      | half an object         |
      | a list                 |
      | a number               |
      | null                   |
      | numbers for texts      |
      | bytes that are no text |
      | ten thousand brackets  |
      | three megabytes        |
      | a zero character       |

  Scenario Outline: Queries that make no sense
    Given Ada has signed up
    When Ada asks with the <method> method for "<target>"
    Then the answer is an error of the sender's, and says so without a trace of our inside

    Examples:
      | method | target                                                       |
      | GET    | /trpc/billing.creditsBalance                                 |
      | GET    | /trpc/billing.creditsHistory                                 |
      | GET    | /trpc/billing.creditsBalance?input=%7B                       |
      | GET    | /trpc/billing.creditsBalance?input=%FF%FE                    |
      | GET    | /trpc/billing.creditsBalance?input=7                         |
      | GET    | /trpc/billing.creditsBalance?batch=1&input=%5B%5D            |
      | GET    | /trpc/billing.noSuchThing                                    |
      | GET    | /trpc/fleet.createInstance                                   |
      | POST   | /trpc/billing.creditsBalance                                 |
      | GET    | /trpc/fleet.getInstance?input=%7B%22id%22%3A%22not-an-id%22%7D |
      | GET    | /trpc/fleet.getInstance?input=%7B%22id%22%3A%22%27--%22%7D   |
      | GET    | /trpc/billing.creditsHistory?input=%7B%22limit%22%3A-1%7D    |
      | GET    | /trpc/billing.creditsHistory?input=%7B%22limit%22%3A1e99%7D  |
      | GET    | /fleet/bots/not-an-id                                        |
      | GET    | /no/such/path                                                |
      | DELETE | /api/billing/webhook                                         |

  Scenario Outline: A cookie <cookie> proves nothing
    Given Ada has signed up
    When Ada asks for "/trpc/billing.creditsBalance?input=%7B%7D" with the cookie "<cookie>"
    Then the answer is an error of the sender's, and says so without a trace of our inside

    Examples:
      | cookie                  |
      | unsigned                |
      | signed with nothing     |
      | signed by somebody else |
      | of another token        |
      | very long               |
      | of quotes               |

  Scenario: Another site's page cannot act with a customer's cookie
    Given Ada has signed up
    When a page of "https://evil.example" posts to "/trpc/fleet.createInstance" with Ada's cookie
    Then the answer is 403
    When a page of "null" posts to "/api/auth/sign-out" with Ada's cookie
    Then the answer is 403
    And Ada's credentials still read the balance
