Feature: Accounts
  Signing up, in and out; a verified address; a forgotten password.

  Scenario: The same address signs up once
    Given Ada has signed up
    When Ada signs up again with the same address
    Then the answer is 422 with the code "USER_ALREADY_EXISTS_USE_ANOTHER_EMAIL"

  Scenario: The same address in capital letters is the same address
    Given Ada has signed up
    When Ada signs up again with the same address in capital letters
    Then the answer is 422 with the code "USER_ALREADY_EXISTS_USE_ANOTHER_EMAIL"

  Scenario Outline: A password has 8 to 128 characters and no other rule
    When Ada signs up with a password of <length> characters
    Then the answer is <status>

    Examples:
      | length | status |
      | 7      | 400    |
      | 8      | 200    |
      | 128    | 200    |
      | 129    | 400    |

  Scenario: Signing out ends the session, not only the cookie
    Given Ada has signed up
    When Ada signs out, but keeps her cookie
    Then Ada's session is over

  Scenario: Signing in again
    Given Ada has signed up
    When Ada signs in with a wrong password
    Then the answer is 401 with the code "INVALID_EMAIL_OR_PASSWORD"
    When Ada signs in
    Then Ada is signed in

  Scenario: A stranger learns nothing about who has an account
    Given Ada has signed up
    When somebody signs in as "nobody@example.com"
    Then the answer is 401 with the code "INVALID_EMAIL_OR_PASSWORD"

  @mail
  Scenario: Confirming the address brings the welcome credit, once
    Given Ada has signed up
    When Ada opens the link in the mail "verify-email"
    Then Ada is sent on to a page that says "status=success"
    And Ada's balance becomes $5.00
    When Ada opens the link in the mail "verify-email" again
    Then Ada is sent on to a page that says "reason=invalid_or_expired"
    And Ada's balance stays $5.00

  @mail
  Scenario: Many clicks on the same link at once bring the welcome credit once
    Given Ada has signed up
    When Ada opens the link in the mail "verify-email" 8 times at once
    Then Ada's balance becomes $5.00
    And Ada's balance stays $5.00

  @mail
  Scenario: A forgotten password
    Given Ada has signed up
    When Ada asks for a new password
    And Ada follows the mail and sets the password "another-Password-2"
    Then the answer is 200
    When Ada signs in with the password "another-Password-2"
    Then Ada is signed in
    When Ada signs in with the password "Testpass1"
    Then the answer is 401 with the code "INVALID_EMAIL_OR_PASSWORD"
    When Ada uses the link of that mail again for the password "a-third-Password-3"
    Then the answer is 400 with the code "INVALID_TOKEN"

  @mail
  Scenario: A new password ends the sessions of whoever knew the old one
    Given Ada has signed up
    When Ada asks for a new password
    And Ada follows the mail and sets the password "another-Password-2"
    Then Ada's session is over

  Scenario: A forgotten password of nobody looks the same from outside
    When somebody asks for a new password for "nobody@example.com"
    Then the answer is 200

  @clock
  Scenario: A session ends after seven days of silence
    Given Ada has signed up
    When 6 days and 23 hours pass
    Then Ada's credentials still read the balance
    When 8 days pass
    Then Ada's session is over

  @clock
  Scenario: A session in use goes on
    Given Ada has signed up
    When 5 days pass
    And Ada's client refreshes the session
    And 5 days pass
    Then Ada's credentials still read the balance

  @clock @mail
  Scenario: A link in a mail grows old
    Given Ada has signed up
    And Ada has received the mail "verify-email"
    When 25 hours pass
    And Ada opens the link in the mail "verify-email"
    Then Ada is sent on to a page that says "reason=invalid_or_expired"
    And Ada's balance stays $0.00
